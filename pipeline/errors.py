"""Every error thrumcast raises on purpose, in one tree.

    ThrumcastError              exit 1   something failed; the message says what, the hint says what to do
    ├── UsageError              exit 2   the command line has an invalid value
    ├── ConfigError             exit 3   a configuration value is invalid
    ├── DecodeError             (never leaves the driver: the message goes to quarantine)
    ├── RecordingError          exit 1   a recording is unreadable
    ├── ArchiveError            exit 1   the data directory is full, read-only, damaged or held by another process
    │   └── SchemaError         exit 3   the archive or a model has another feature schema
    ├── ModelError              exit 1   a model version is missing, damaged or does not fit
    ├── NotReachable            exit 4   the broker, or the service, does not answer
    └── GateRefused             exit 5   a model did not pass the gate of `promote`

A message reads `expected ..., found: ...`. The hint, printed on a line of its own, says what to do.
"""

from __future__ import annotations


class ThrumcastError(Exception):
    """An error that the user can act on."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, reported: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reported = reported  # the printed result of the command already contains it

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class UsageError(ThrumcastError):
    """A value on the command line is invalid, and no configuration key is involved."""

    exit_code = 2


class ConfigError(ThrumcastError):
    """A configuration value is invalid; the message names the key."""

    exit_code = 3
    others: tuple[ConfigError, ...] = ()  # further errors in the same configuration


class DecodeError(ThrumcastError):
    """A payload is not a block. `reason` is one of a few fixed words, for a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordingError(ThrumcastError):
    """A recording is unreadable or incomplete."""


class ArchiveError(ThrumcastError):
    """The data directory cannot be used."""


class SchemaError(ArchiveError):
    """The feature schemas of two sides differ."""

    exit_code = 3


class ModelError(ThrumcastError):
    """A model version is missing, damaged or does not fit."""


class NotReachable(ThrumcastError):
    """The broker, or another service, does not answer."""

    exit_code = 4


class GateRefused(ThrumcastError):
    """A model version failed the checks of promotion."""

    exit_code = 5
