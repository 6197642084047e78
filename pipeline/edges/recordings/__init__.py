"""Recordings: files of vibration samples.

* `recording`: opens a file (`open_recordings`) and cuts it into streams of blocks (`streams`), with chosen channels.
* `formats`: the table of formats. One module reads each: `text`, `parquet`, `wav`, `mat`, `hdf5`, `numpy_files`,
  `tdms`, `uff`, `lvm`, `xlsx`; `arrays` groups the signals of those that are trees of arrays.
* `contents`: what the readers share: options, contents, and the door that turns any failure into an
  error with the file.
* `clock`: time columns. `units`: units. `ids`: machine ids by file and folder. `presets`: public data sets by name.
* `files`: finds recordings in folders, hashes them, and writes new ones. `snapshots`: times of series of snapshots.
* `readings`: readings of a running plant, stored by `thrumcast record` so that the same blocks can be read again.
"""
