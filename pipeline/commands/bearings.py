"""`thrumcast bearings`: defect orders of a bearing from the catalogue or from its geometry."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, usage_errors, with_console

if TYPE_CHECKING:
    from pipeline.core.bearings import Bearing, Geometry

_KEYS = ("elements", "element_diameter_mm", "pitch_diameter_mm", "contact_angle_deg")


@click.command(name="bearings")
@click.argument("name", required=False)
@click.option("--geometry", metavar="KEY=VALUE,...", help=f"Compute them from: {', '.join(_KEYS)}.")
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Shaft speed; adds a row in Hz.")
@with_console
def command(console: Console, name: str | None, geometry: str | None, rpm: float | None) -> None:
    """List the bearings of the catalogue, or show the defect orders of one (NAME) and their source.

    Orders are multiples of the shaft speed for a stationary outer ring. A damaged element shows at twice BSF.
    """
    from pipeline.core.bearings import CATALOGUE, Bearing, find

    if name is not None and geometry is not None:
        msg = "expected NAME or --geometry, found both"
        raise click.UsageError(msg)
    with usage_errors():
        if geometry is not None:
            chosen: tuple[Bearing, ...] = (Bearing("", "computed", _parsed(geometry), "from the given geometry"),)
        else:
            chosen = CATALOGUE if name is None else (find(name),)
        rows = [_row(bearing, rpm) for bearing in chosen]
    console.result({"rpm": rpm, "bearings": rows}, _table(rows, rpm))


def _parsed(text: str) -> Geometry:
    from pipeline.core.bearings import Geometry

    given = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if not set(_KEYS[:3]) <= given.keys() <= set(_KEYS):
        msg = f"--geometry: expected {', '.join(_KEYS[:3])} (and {_KEYS[3]}), found: {', '.join(given)}"
        raise click.UsageError(msg)
    try:
        return Geometry(int(given["elements"]), *(float(given.get(key, "0")) for key in _KEYS[1:]))
    except ValueError as error:
        msg = f"--geometry: expected a whole number of elements and plain numbers, found: {error}"
        raise click.UsageError(msg) from error


def _row(bearing: Bearing, rpm: float | None) -> dict[str, Any]:
    orders = bearing.geometry.orders()
    row = {
        "name": bearing.name,
        "what": bearing.what,
        "geometry": asdict(bearing.geometry),
        "orders": asdict(orders),
        "source": bearing.source,
    }
    if rpm is not None:
        lines = {"bpfo": orders.bpfo, "bpfi": orders.bpfi, "2bsf": 2 * orders.bsf, "ftf": orders.ftf}
        row["hz"] = {line: order * rpm / 60 for line, order in lines.items()}
    return row


def _table(rows: list[dict[str, Any]], rpm: float | None) -> str:
    lines = [
        f"{'name':<10} {'Z':>3} {'d mm':>7} {'D mm':>7} {'angle':>6} {'BPFO':>8} {'BPFI':>8} {'2xBSF':>8} {'FTF':>8}"
    ]
    for row in rows:
        g, o = row["geometry"], row["orders"]
        lines.append(
            f"{row['name'] or '-':<10} {g['elements']:>3} "
            f"{g['element_diameter_mm']:>7.3f} {g['pitch_diameter_mm']:>7.3f} "
            f"{g['contact_angle_deg']:>6.2f} {o['bpfo']:>8.4f} {o['bpfi']:>8.4f} {2 * o['bsf']:>8.4f} {o['ftf']:>8.4f}"
        )
        if rpm is not None:
            hz = row["hz"]
            label = f"Hz at {rpm:g} rpm"
            lines.append(f"{label:<37} {hz['bpfo']:>8.2f} {hz['bpfi']:>8.2f} {hz['2bsf']:>8.2f} {hz['ftf']:>8.2f}")
    sources = [f"{row['name']}: {row['what']}. {row['source']}" for row in rows if row["name"]]
    return "\n".join([*lines, "", *sources] if sources else lines)
