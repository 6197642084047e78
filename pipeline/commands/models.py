"""`thrumcast models ls|show|diff|export|sign`: the model versions of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, data_option, with_console

if TYPE_CHECKING:
    from models.registry import Registry


@click.group(name="models")
def command() -> None:
    """List, show, compare, export and sign the model versions of a data directory."""


@command.command(name="ls")
@data_option
@with_console
def ls(console: Console, data_dir: Path | None) -> None:
    """List all versions with their aliases and held-out scores, or why a version is unreadable."""
    from models.evaluation.report import table
    from models.registry import Registry

    registry = Registry(console.config(**{"data.dir": data_dir}).data.path)
    aliases = registry.aliases()
    rows = [_row(registry, version, aliases) for version in registry.versions()]
    head = ("version", "aliases", "windows", "macro F1", "recordings", "split", "problem")
    cells = [
        (
            row["version"],
            ",".join(row["aliases"]),
            *(_cell(row[key]) for key in ("windows", "macro_f1", "recording_accuracy", "split", "problem")),
        )
        for row in rows
    ]
    console.result(
        {"versions": rows, "aliases": aliases}, table(head, cells) if rows else f"no versions in {registry.root}"
    )


@command.command(name="show")
@click.argument("version")
@data_option
@with_console
def show(console: Console, version: str, data_dir: Path | None) -> None:
    """Show the model card of VERSION (a version or an alias)."""
    from models.registry import Registry

    registry = Registry(console.config(**{"data.dir": data_dir}).data.path)
    model = registry.load(version)
    document = {
        "version": model.spec.version,
        "aliases": [name for name, to in registry.aliases().items() if to == model.spec.version],
        "config": model.spec.document(),
        "metrics": model.metrics,
        "data": model.data,
        "train": model.train,
        "history": [move for move in registry.history() if model.spec.version in {move["from"], move["to"]}],
    }
    console.result(document, model.card.rstrip())


@command.command(name="diff")
@click.argument("first")
@click.argument("second")
@data_option
@with_console
def diff(console: Console, first: str, second: str, data_dir: Path | None) -> None:
    """Compare FIRST and SECOND (versions or aliases): settings, classes, inputs and held-out scores.

    Shows differences of settings and data, and all scores. The scores are those of each training; `thrumcast
    evaluate SECOND --against FIRST` scores both on the same windows.
    """
    from models.evaluation.version_diff import difference
    from models.registry import Registry

    registry = Registry(console.config(**{"data.dir": data_dir}).data.path)
    found = difference(registry.load(first), registry.load(second))
    console.result(found.document, found.text)


@command.command(name="export")
@click.argument("version")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@data_option
@with_console
def export(console: Console, version: str, path: Path, data_dir: Path | None) -> None:
    """Write VERSION (a version or an alias) to PATH as ONNX: one step with explicit state.

    The file is kept only if 200 consecutive steps agree with the predictor of thrumcast.
    """
    from models.export import STEPS
    from models.export import export as write
    from models.registry import Registry

    model = Registry(console.config(**{"data.dir": data_dir}).data.path).load(version)
    gap = write(model, path)
    document = {
        "version": model.spec.version,
        "path": str(path),
        "bytes": path.stat().st_size,
        "steps": STEPS,
        "largest_difference": gap,
    }
    text = (
        f"{model.spec.version} -> {path}, {document['bytes']:,} bytes; largest difference over {STEPS} steps {gap:.1e}"
    )
    console.result(document, text)


@command.command(name="sign")
@click.argument("version")
@data_option
@with_console
def sign_version(console: Console, version: str, data_dir: Path | None) -> None:
    """Sign VERSION (a version or an alias) with the key of model.signature_key_file.

    With that key configured, the service loads only signed versions, and `promote` and `rollback` refuse others. Sign
    what you have checked: the signature covers the sums of all files and the version's name.
    """
    from models.registry import Registry
    from models.signature import sign
    from pipeline.errors import ConfigError

    config = console.config(**{"data.dir": data_dir})
    key = config.model.signature_key()
    if key is None:
        msg = "model.signature_key_file: expected a file with the key, found: none"
        raise ConfigError(msg, hint="make one: openssl rand -hex 32 > KEYFILE; chmod 600 KEYFILE")
    registry = Registry(config.data.path)
    name = registry.resolve(version)
    registry.load(name)
    made = sign(registry.root / name, key)
    console.result({"version": name, "signature": made}, f"{name} is signed: {made[:16]}...")


def _row(registry: Registry, version: str, aliases: dict[str, str]) -> dict[str, Any]:
    from pipeline.errors import ModelError

    row: dict[str, Any] = {"version": version, "aliases": [name for name, to in aliases.items() if to == version]}
    row |= dict.fromkeys(("windows", "macro_f1", "recording_accuracy", "split", "problem"))
    try:
        model = registry.load(version)
    except ModelError as error:
        return row | {"problem": error.message}
    recordings = model.metrics.get("recordings", {})
    return row | {
        "windows": model.data.get("used"),
        "macro_f1": model.metrics.get("macro_f1"),
        "recording_accuracy": recordings.get("accuracy"),
        "split": model.train.get("split"),
    }


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
