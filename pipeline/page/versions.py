"""Model versions on the page: their held-out numbers, what the gate says of each, promote and roll back.

A version never changes, so what was read of it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.tables import Config
from pipeline.errors import ModelError, ThrumcastError
from pipeline.page.views import NotFound, plain

MOST_MOVES = 200
PICTURE = re.compile(r"[a-z_]{1,40}\.png")
VERSION = re.compile(r"v[0-9]{4,9}")


@dataclass(slots=True)
class Versions:
    """The registry of one data directory, as the page shows it."""

    config: Config
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _verdicts: dict[tuple[str | None, str], dict[str, Any]] = field(default_factory=dict)

    def document(self, serving: str | None) -> dict[str, Any]:
        """Every version with its aliases, numbers and the gate's verdict, newest first; and every move of an alias.

        Args:
            serving: The version that the service uses at this moment.
        """
        from models.registry import CHAMPION, Registry

        registry = Registry(self.config.data.path)
        aliases = registry.aliases()
        champion = aliases.get(CHAMPION)
        found = [
            {
                "version": version,
                "aliases": [name for name, to in aliases.items() if to == version],
                "serves": version == serving,
                **self._read(version),
                "gate": None if version == champion else self._gate(champion, version),
            }
            for version in reversed(registry.versions())
        ]
        try:
            back: str | None = registry.rollback_target()
        except ModelError:
            back = None
        history = list(reversed(registry.history()))[:MOST_MOVES]
        return {"versions": found, "aliases": aliases, "rollback_to": back, "history": history}

    def promote(self, version: str, why: str, by: str, *, force: bool) -> dict[str, Any]:
        """Make a version the champion; the service takes it up before its next step.

        Raises:
            NotFound: there is no such version.
            ThrumcastError: no reason is given.
            GateRefused: it does not pass the gate.
        """
        from models.jobs.promotion import promote

        remarks: list[str] = []
        why = _reason(why)
        self._there(version)
        key = self.config.model.signature_key()
        old, new = promote(self.config.data.path, version, why=why, by=by, force=force, warn=remarks.append, key=key)
        return {"champion": new, "before": old, "why": why, "remarks": remarks}

    def rollback(self, to: str | None, why: str, by: str) -> dict[str, Any]:
        """Make an earlier version the champion again.

        Raises:
            ThrumcastError: no reason is given.
            ModelError: there is no earlier champion.
        """
        from models.jobs.promotion import rollback

        why = _reason(why)
        if to:
            self._there(to)
        old, new = rollback(self.config.data.path, to or None, why=why, by=by, key=self.config.model.signature_key())
        return {"champion": new, "before": old, "why": why, "remarks": []}

    def picture(self, version: str, name: str) -> bytes:
        """A picture that the training drew.

        Raises:
            NotFound: there is none of that name.
        """
        place = self._place(version) / name
        if not (VERSION.fullmatch(version) and PICTURE.fullmatch(name) and place.is_file()):
            msg = f"expected a picture of a version, found: {version}/{name}"
            raise NotFound(msg, hint="see `pictures` in /api/v1/models")
        return place.read_bytes()

    def _there(self, version: str) -> None:
        from models.registry import Registry

        registry = Registry(self.config.data.path)
        if version not in (*registry.versions(), *registry.aliases()):
            msg = f"expected a model version or alias, found: {version}"
            raise NotFound(msg, hint="see /api/v1/models")

    def _place(self, version: str) -> Path:
        return self.config.data.path / "registry" / version

    def _read(self, version: str) -> Mapping[str, Any]:
        if version not in self._known:
            from models.registry import Registry

            try:
                model = Registry(self.config.data.path).load(version)
            except ModelError as error:  # not kept: it may be repaired
                return {"problem": error.message}
            numbers, labels = model.metrics, model.data.get("labels") or {}
            self._known[version] = {
                "problem": None,
                "classes": list(model.spec.classes),
                "inputs": len(model.spec.inputs),
                "windows": model.data.get("used"),
                "labels": len(labels.get("used", ())),
                "source": model.data.get("source"),
                "split": model.train.get("split"),
                "seconds": model.train.get("seconds"),
                "interrupted": model.train.get("interrupted"),
                "accuracy": numbers.get("accuracy"),
                "macro_f1": numbers.get("macro_f1"),
                "ece": numbers.get("ece"),
                "recordings": numbers.get("recordings", {}).get("accuracy"),
                "events": plain(numbers.get("events")),
                "per_class": plain(numbers.get("per_class")),
                "confusion": plain(numbers.get("confusion")),
                "pictures": sorted(path.name for path in self._place(version).glob("*.png")),
            }
        return self._known[version]

    def _gate(self, champion: str | None, version: str) -> dict[str, Any] | None:
        """What the gate says of a version beside this champion: {passes, problems, remarks}; None if unreadable."""
        if (champion, version) not in self._verdicts:
            from models.jobs.promotion import judge
            from models.registry import Registry

            registry = Registry(self.config.data.path)
            try:
                verdict = judge(registry, registry.load(version))
            except ModelError:
                return None
            self._verdicts[champion, version] = {
                "passes": not verdict.problems,
                "problems": list(verdict.problems),
                "remarks": list(verdict.remarks),
            }
        return self._verdicts[champion, version]


def _reason(why: str) -> str:
    why = " ".join(why.split())[:400]
    if not why:
        msg = "expected a reason, found none"
        raise ThrumcastError(msg, hint="`why` is kept in the history of the registry")
    return why
