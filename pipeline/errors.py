"""Every error thrumcast raises on purpose, in one tree.

    ThrumcastError              exit 1   something failed; the message says what, the hint says what to do
    ├── UsageError              exit 2   the command line asks for what cannot be
    ├── ConfigError             exit 3   a configuration file, or what stands for one of its keys
    ├── DecodeError             (never leaves the driver: the message goes to quarantine)
    ├── RecordingError          exit 1   a recording cannot be read
    ├── ArchiveError            exit 1   the data directory is full, read-only, damaged or held by another process
    │   └── SchemaError         exit 3   the archive or a model speaks another feature schema
    ├── ModelError              exit 1   no such model version, or its files do not fit
    ├── NotReachable            exit 4   the broker does not answer
    └── GateRefused             exit 5   a model did not pass the gate of `promote`

A message reads `what was expected, what was found: value`; the hint goes on a line of its own.
"""

from __future__ import annotations


class ThrumcastError(Exception):
    """Something the person at the terminal can act on."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, reported: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reported = reported  # a command's result, printed before, has said it already

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class UsageError(ThrumcastError):
    """A value on the command line that cannot be used, where no configuration has a key for it."""

    exit_code = 2


class ConfigError(ThrumcastError):
    """A configuration value that cannot be used; the message names the key as written."""

    exit_code = 3
    others: tuple[ConfigError, ...] = ()  # what else cannot be used in the same configuration


class DecodeError(ThrumcastError):
    """A payload that is not a block. `reason` is one of a few fixed words, fit for a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordingError(ThrumcastError):
    """A recording that cannot be read, or lacks what is needed to make sense of it."""


class ArchiveError(ThrumcastError):
    """The data directory cannot be used as it is."""


class SchemaError(ArchiveError):
    """Two sides disagree about what the feature columns mean."""

    exit_code = 3


class ModelError(ThrumcastError):
    """A model version that is missing, damaged or does not fit."""


class NotReachable(ThrumcastError):
    """The broker, or another service, does not answer."""

    exit_code = 4


class GateRefused(ThrumcastError):
    """A model version did not pass the checks that guard promotion."""

    exit_code = 5
