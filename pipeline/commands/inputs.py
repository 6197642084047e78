"""What `backfill` and `replay` say of recordings that could not be taken as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from pipeline.commands.common import Console


@contextlib.contextmanager
def troubles(console: Console) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Files that are taken in part and files that are skipped, path -> why; said at the end, also after Ctrl-C."""
    in_part: dict[str, str] = {}
    skipped: dict[str, str] = {}
    try:
        yield in_part, skipped
    finally:
        for remark in (*by_reason("took in part", in_part), *by_reason("skipped", skipped)):
            console.warn(remark)


def by_reason(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """One remark per reason, which names the first file it holds for: `skipped 21 files, the first of them: ...`."""
    alike: dict[str, list[str]] = {}
    for path, why in reasons.items():
        alike.setdefault(why.replace(path, ""), []).append(path)
    for first, *others in alike.values():
        why = reasons[first] if first in reasons[first] else f"{first}: {reasons[first]}"
        yield f"{what} {len(others) + 1} files, the first of them: {why}" if others else f"{what}: {why}"
