"""Recordings: files of vibration samples.

* `recording`: opens a file (`open_recording`) and cuts it into streams of blocks (`streams`), with chosen channels.
* `formats`: one reader per file format (Parquet, CSV, WAV, MATLAB) and the times of snapshots.
* `files`: finds recordings in folders, hashes them, and writes new ones.
* `readings`: readings of a running plant, stored by `thrumcast record` so that the same blocks can be read again.
"""
