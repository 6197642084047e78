"""Signed versions: HMAC-SHA256 over the sums of a version's files and its name, in the version's file SIGNATURE.

SHA256SUMS shows damage. Whoever may write the registry can rewrite weights and sums, but without the key no signature.
The key is a secret of at least 32 bytes; who has it can sign as well as check, so keep it out of the data directory.
A signature says that a version is one of ours, not that it is the newest: an alias may point back to any signed one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from models import bundle
from pipeline.errors import ModelError


def signature(version: str, sums: bytes, key: bytes) -> str:
    """The signature of a version whose SHA256SUMS is `sums`."""
    return hmac.new(key, b"thrumcast model 1\0" + version.encode() + b"\0" + sums, hashlib.sha256).hexdigest()


def check(directory: Path, sums: bytes, key: bytes) -> None:
    """Refuse a version without the right signature.

    Raises:
        ModelError: it has none, or another one.
    """
    expected = f"{directory}: expected a signature with the key of model.signature_key_file"
    hint = f"if you trust it, sign it: `thrumcast models sign {directory.name}`"
    try:
        found = bundle.read_file(directory / bundle.SIGNATURE)
    except OSError as error:
        msg = f"{expected}, found: {error.strerror}"
        raise ModelError(msg, hint=hint) from error
    if not hmac.compare_digest(found.strip(), signature(directory.name, sums, key).encode()):
        msg = f"{expected}, found: another one"
        raise ModelError(msg, hint=f"its files, its name or the key have changed; {hint}")


def sign(directory: Path, key: bytes) -> str:
    """Sign a version that is whole, and return the signature. A former signature is replaced.

    Raises:
        ModelError: the version is damaged, or cannot be written.
    """
    bundle.load(directory)
    try:
        made = signature(directory.name, bundle.read_file(directory / bundle.SUMS), key)
        staged = directory / f".{bundle.SIGNATURE}-{os.getpid()}"
        with open(staged, "x", encoding="ascii") as file:
            file.write(f"{made}\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(directory / bundle.SIGNATURE)
    except OSError as error:
        msg = f"expected to write {directory / bundle.SIGNATURE}, found: {error}"
        raise ModelError(msg, hint="check the permissions of the registry") from error
    return made
