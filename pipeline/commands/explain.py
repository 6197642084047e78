"""`thrumcast explain`: why the model made a prediction, recomputed from the archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, table, with_console
from pipeline.errors import ThrumcastError

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.explain import Explanation
    from pipeline.core.records import FeatureRow

SAME = 1e-5  # largest difference of a probability that counts as rounding
SHOWN = 10


@click.command(name="explain")
@click.option("--machine", required=True, help="Which machine.")
@click.option("--point", help="Which point of it [default: the only one].")
@click.option("--window", type=int, help="Window number [default: the newest].")
@click.option("--session", type=int, help="Session [default: the newest that has this window].")
@click.option(
    "--model",
    "version",
    help="Explain the prediction of this version [default: the champion, else the newest prediction].",
)
@click.option("--mode", help="Explain the probability of this mode [default: the most probable].")
@data_option
@with_console
def command(
    console: Console,
    machine: str,
    point: str | None,
    window: int | None,
    session: int | None,
    version: str | None,
    mode: str | None,
    data_dir: Path | None,
) -> None:
    """Show a prediction with its most important inputs, the evidence, the model and the age of its memory.

    The prediction is recomputed from the archived features; class and probabilities must be the same.
    """
    config = console.config(**{"data.dir": data_dir})

    from models.explain import explain
    from models.predictor import NumpyPredictor
    from models.registry import CHAMPION, Registry
    from pipeline.config.specs import stream_specs
    from pipeline.core.engine import Engine
    from pipeline.core.features.table import NAMES, stacked_inputs
    from pipeline.edges.machines import MACHINES_NAME, MachinesFile
    from pipeline.edges.store.read import read_features, read_predictions, rows_of
    from pipeline.service.label_rows import instead

    path = config.data.path
    streams = rows_of(read_features(path, machines=[machine]), NAMES)
    if not streams:
        known = {key.machine for key in MachinesFile(path / MACHINES_NAME).load()}
        msg = f"expected a machine with archived windows, found: {machine}"
        raise ThrumcastError(msg, hint=instead(machine, known - {machine}))
    rows = _of_point(streams, machine, point)
    target = _target(rows, machine, window, session)
    said = [row for row in read_predictions(path, machines=[machine]).to_pylist() if row["point"] == target.key.point]
    registry = Registry(path)
    here = [row for row in said if (row["session"], row["window"]) == (target.session, target.window)]
    archived = _chosen(here, version and registry.resolve(version), registry.aliases().get(CHAMPION))
    model = registry.load(archived["model"] if archived else version or CHAMPION)
    model.check_fits(target.schema)
    if mode is not None and mode not in model.spec.classes:
        msg = f"expected a mode that {model.spec.version} knows, found: {mode}"
        raise ThrumcastError(msg, hint=f"it knows {', '.join(model.spec.classes)}")
    predictor = NumpyPredictor(model)
    past = [row for row in rows if row.start_ns <= target.start_ns]
    spec_of = stream_specs(config, MachinesFile(path / MACHINES_NAME).load())
    stepped = Engine(spec_of, predictor).predict({}, {target.key: past}).predictions  # as the service would
    # Predictions of any version count: a memory that was rebuilt at a model switch covers windows of another version.
    judged = {(p.session, p.window): p.mode is not None for p in stepped}
    judged |= {(r["session"], r["window"]): r["mode"] is not None for r in said}
    age = stepped[-1].state_age if archived is None else int(archived["state_age"])
    past = [row for row in past if judged[row.session, row.window]][-age:]
    if not past or past[-1] is not target:
        found = f"window {target.window} of quality {target.quality}"
        msg = f"expected a window that the network has judged, found: {found}"
        raise ThrumcastError(msg, hint="windows with missing samples or a faulty sensor are not judged")
    x = stacked_inputs(predictor.inputs, past)
    explained = explain(predictor, x, mode)
    document = _document(target, model, archived, explained, x[-1], len(past), mode)
    if archived is not None and len(past) < archived["state_age"]:
        console.warn(
            f"expected {archived['state_age']} archived windows since the start of the memory, found {len(past)}"
        )
    console.result(document, _text(document))


def _of_point(streams: dict[Any, list[FeatureRow]], machine: str, point: str | None) -> list[FeatureRow]:
    points = [key.point for key in streams]
    if point is None and len(points) == 1:
        point = points[0]
    for key, rows in streams.items():
        if key.point == point:
            return rows
    found = ", ".join(points)
    msg = f"expected a point of {machine} with archived windows, found: {point or found}"
    raise ThrumcastError(msg, hint=f"--point is one of {found}")


def _target(rows: list[FeatureRow], machine: str, window: int | None, session: int | None) -> FeatureRow:
    for row in reversed(rows):
        if window in (None, row.window) and session in (None, row.session):
            return row
    msg = f"expected an archived window {window} of {machine}, found none" + (
        f" in session {session}" if session else ""
    )
    raise ThrumcastError(msg, hint=f"its windows are {rows[0].window} to {rows[-1].window}, in order of time")


def _chosen(here: Sequence[dict[str, Any]], version: str | None, champion: str | None) -> dict[str, Any] | None:
    """The archived prediction to explain, if there is one."""
    if version is not None:
        return next((row for row in here if row["model"] == version), None)
    return next((row for row in here if row["model"] == champion), here[-1] if here else None)


def _document(
    target: FeatureRow,
    model: Bundle,
    archived: dict[str, Any] | None,
    explained: Explanation,
    x: Any,
    windows: int,
    mode: str | None,
) -> dict[str, Any]:
    import math

    from pipeline.core.evidence import confirms, shown_mode
    from pipeline.drivers.results import iso

    classes = model.spec.classes
    p = {name: float(value) for name, value in zip(classes, explained.p, strict=True)}
    best = max(p, key=lambda name: p[name])
    order = sorted(range(len(model.spec.inputs)), key=lambda f: -abs(explained.by_input[f]))
    difference = None
    if archived is not None:
        difference = max(abs(archived[f"p_{name}"] - value) for name, value in p.items())
    return {
        "machine": target.key.machine,
        "point": target.key.point,
        "session": target.session,
        "window": target.window,
        "start": iso(target.start_ns),
        "mode": best,
        "shown": shown_mode(best, target),
        "confirmed": confirms(best, target),
        "p": p[best],
        "probabilities": p,
        "model": model.spec.version,
        "archived": archived
        and {key: archived[key] for key in ("mode", "p", "state", "state_age", "model")}
        | {"same": archived["mode"] == best and (difference or 0) <= SAME, "largest_difference": difference},
        "stepped_windows": windows,
        "explained_mode": mode or best,
        "withheld_windows": explained.windows,
        "inputs": [
            {
                "input": model.spec.inputs[f],
                "value": float(x[f]) if math.isfinite(x[f]) else None,
                "adds": float(explained.by_input[f]),
                **_place(model, model.spec.inputs[f], float(x[f])),
            }
            for f in order
        ],
        "unknown": _strangeness(model, x),
        "families": dict(sorted(explained.by_family.items(), key=lambda item: -abs(item[1]))),
    }


def _strangeness(model: Bundle, x: Any) -> dict[str, Any] | None:
    """How far a window is from the training data, and in which quantities; None if the version has no detector."""
    from models.unknown import detector

    strange = detector(model)
    if strange is None:
        return None
    distance, adds = strange.explain(x)
    return {
        "is": distance > strange.threshold,
        "distance": distance,
        "threshold": strange.threshold,
        "quantities": dict(sorted(adds.items(), key=lambda item: -item[1])),
    }


def _place(model: Bundle, name: str, value: float) -> dict[str, Any]:
    """The share of the training data below a value, from the stored quantiles."""
    reference = model.data.get("distribution") or {}
    quantiles = (reference.get("quantiles") or {}).get(name)
    if quantiles is None or value != value:
        return {}
    below = [at for at, quantile in zip(reference["at"], quantiles, strict=True) if value >= quantile]
    return {"above_share_of_training": below[-1] if below else 0.0, "training": reference["of"]}


def _text(document: dict[str, Any]) -> str:

    archived = document["archived"]
    lines = [
        f"{document['machine']}/{document['point']} session {document['session']} window {document['window']},"
        f" {document['start']}",
        f"{document['shown']}: {document['mode']} {document['p']:.3f}, {document['model']}",
    ]
    if archived is None:
        lines.append(f"no archived prediction; computed now from {document['stepped_windows']} windows")
    else:
        lines[-1] += f", state {archived['state']}, memory of {archived['state_age']} windows"
        lines.append(
            f"recomputed from {document['stepped_windows']} archived windows: "
            + ("the same" if archived["same"] else f"archived was {archived['mode']} {archived['p']:.3f}")
            + f", largest difference of a probability {archived['largest_difference']:.1e}"
        )
    if document["confirmed"] is not None:
        lines.append(f"envelope lines {'confirm' if document['confirmed'] else 'do not confirm'} {document['mode']}")
    if (strange := document["unknown"]) is not None:
        most = ", ".join(list(strange["quantities"])[:3])
        verdict = f"unknown, most by {most}" if strange["is"] else "known"
        lines.append(
            f"{strange['distance']:.2f} from the nearest mode, unknown above {strange['threshold']:.2f}: {verdict}"
        )
    likely = sorted(document["probabilities"].items(), key=lambda item: -item[1])[:4]
    lines += [", ".join(f"{name} {value:.3f}" for name, value in likely), ""]
    lines.append(
        f"contributions to {document['explained_mode']} "
        f"(its drop without the input, {document['withheld_windows']} windows)"
    )
    head = ("input", "value", "adds", "above of training")
    cells = [
        (
            row["input"],
            "missing" if row["value"] is None else f"{row['value']:.4g}",
            f"{row['adds']:+.3f}",
            f"{row['above_share_of_training']:.0%}" if "above_share_of_training" in row else "-",
        )
        for row in document["inputs"][:SHOWN]
    ]
    cells += [(f"all {name}", "", f"{adds:+.3f}", "") for name, adds in list(document["families"].items())[:3]]
    return "\n".join([*lines, table(head, cells, left=1)])
