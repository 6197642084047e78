"""A coverage-guided fuzzer on the codec: `python tests/harness/fuzz_codec.py [libFuzzer flags]`; needs atheris.

Whatever the bytes, `decode` gives a block or a DecodeError with one of the fixed reasons; anything else is a find.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline.core"]):
    from pipeline.core import codec, codec_arrow  # noqa: F401  # decode loads it on first sight only
    from pipeline.core.records import StreamKey

from pipeline.chaos.rubbish import rubbish
from pipeline.errors import DecodeError

KEY = StreamKey("pump-01", "de")


def one(data: bytes) -> None:
    """Any bytes."""
    try:
        block = codec.decode(data, KEY, max_payload_bytes=65_536)
    except DecodeError as error:
        if error.reason not in codec.REASONS:
            raise
        return
    assert block.samples.ndim == 2
    assert block.samples.size > 0
    again = codec.decode(codec.encode(block), KEY, max_payload_bytes=1_000_000)
    assert again.samples.tobytes() == block.samples.tobytes()


def main() -> None:
    """Starts from the payloads of the self-test, good and bad."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, payload) in enumerate(rubbish(300, 1)):
            if len(payload) < 65_536:
                (Path(folder) / f"{number:03d}").write_bytes(payload)
        atheris.Setup([*sys.argv, folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
