"""What the service knows of windows beside a network's probabilities, for alarms that are replayed.

`unknown` is said by the version's own detector, and the zone is the floor under the alarms; both come from the archived
features and the present configuration. An alarm that a zone calls for has the mode `other`, as in service. What a
replay cannot know is left out: who acknowledged, other versions that served in between, and the alarms that were up
before a pause of more than `model.max_gap_s` (every stretch of windows begins without any).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from models.bundle import Bundle
from models.evaluation.events import Track
from models.unknown import detector
from pipeline.core.records import FeatureRow, StreamKey
from pipeline.core.severity import Limits, floor

FLOOR_FEATURES = ("velocity_rms", "rel_rms")  # that zones come from

Zones = Mapping[tuple[StreamKey, int, int], str | None]


def as_served(tracks: Sequence[Track], model: Bundle, zones: Zones) -> list[Track]:
    """Tracks of a version with what its detector and the zones say of every window."""
    is_unknown, made = detector(model), []
    for track in tracks:
        windows = track.sequence
        sessions, starts = windows.session.tolist(), windows.start_ns.tolist()
        zone = [zones[windows.key, session, start] for session, start in zip(sessions, starts, strict=True)]
        unknown = None if is_unknown is None else is_unknown(windows.x, track.p.astype("float32"))
        made.append(replace(track, zone=zone, unknown=unknown))
    return made


def zones_of(rows: Mapping[StreamKey, Sequence[FeatureRow]], limits_of: Callable[[StreamKey], Limits | None]) -> Zones:
    """The floor under the alarms by stream, session and start in ns."""
    return {
        (key, row.session, row.start_ns): floor(row, limits)
        for key in rows
        for limits in [limits_of(key)]
        for row in rows[key]
    }
