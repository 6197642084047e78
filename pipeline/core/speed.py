"""Where a stated shaft speed comes from, how far it can be off, and when the spectrum contradicts it.

A nameplate's speed differs from the true one by -2.5 to +6.8 %, and lines are sought within `features.slip_tolerance`
(2 %). So a speed whose source is less certain than that is refined in every window on harmonics 1 to 5 of the shaft:
`pipeline.core.features.speed`. A measured speed is used as it is. Every LOOK_EVERY-th window it is compared with the
harmonics too. Where a speed and the harmonics disagree in DOUBTS windows in a row, people are told both values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pipeline.core.records import Contradiction, FeatureRow

UNCERTAINTY: Final[dict[str, float]] = {  # largest |true / stated - 1| by the source of a speed
    "measured": 0.005,
    "tachometer": 0.005,
    "nominal": 0.07,
    "nameplate": 0.07,
    "estimated": 0.03,  # by somebody, from a spectrum
}
BELIEVED = 0.02  # a source that is no less certain is used as it is: lines are sought this far away
LOOK_WITHIN = 0.07  # how far around a measured speed its harmonics are looked for
LOOK_EVERY = 16  # windows of a measured speed: the comparison costs a sixteenth of a refinement
DOUBTS = 3  # windows in a row that make a contradiction


def source_of(text: object) -> str | None:
    """The source that a text of a recording means: its first word that names one, or None.

    "nominal (file name)" is nominal, "tacho" a tachometer.
    """
    words = str(text).lower().replace("(", " ").replace(",", " ").split() if isinstance(text, str) else []
    for word in words:
        for source in UNCERTAINTY:
            if word.startswith(source) or (word.startswith("tacho") and source == "tachometer"):
                return source
    return None


def look(source: str, number: int) -> tuple[float, bool]:
    """How far around the stated speed window `number` is searched (0 = not at all), and whether what is found is used.

    Depends on the window's source and number alone, so it does not matter how the samples arrived.
    """
    uncertainty = UNCERTAINTY[source]
    if uncertainty > BELIEVED:
        return uncertainty, True
    return (LOOK_WITHIN if number % LOOK_EVERY == 0 else 0.0), False


def doubted(doubts: int, rows: Iterable[FeatureRow]) -> tuple[int, list[Contradiction]]:
    """How many windows in a row now contradict their stated speed, and what people are told.

    Args:
        doubts: the count after the rows before.
        rows: of one stream, in order. Rows in which no comb stands say nothing.
    """
    told = []
    for row in rows:
        if row.speed_found_rpm is None or not row.speed_rpm:
            continue
        off = row.speed_found_rpm / row.speed_rpm - 1
        doubts = doubts + 1 if abs(off) > BELIEVED else 0
        if doubts == DOUBTS:
            used = "used" if look(row.speed_source, row.window)[1] else "not used, because the speed is measured"
            detail = (
                f"{row.speed_rpm:.6g} rpm stated ({row.speed_source}), "
                f"found: shaft harmonics at {row.speed_found_rpm:.6g} rpm, {off:+.1%}; {used}"
            )
            told.append(Contradiction(row.key, "speed_contradicts", detail))
    return doubts, told
