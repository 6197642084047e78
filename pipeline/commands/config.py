"""`thrumcast config`: shows and checks the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.common import Console, with_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.config.sources import Resolution, Setting

MASK = "********"


@click.group(name="config")
def command() -> None:
    """Show or check the configuration."""


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="Try a value as if a flag had set it, such as window.hop_s=0.25; may be repeated.",
    )(function)


@command.command()
@_with_settings
@with_console
def show(console: Console, assignments: tuple[str, ...]) -> None:
    """Print every value and its source: default, file, env or flag. Secrets are masked."""
    from pipeline.config.keys import dotted

    resolved = console.resolve(_flags(assignments))
    rows = {dotted(path): setting for path, setting in resolved.settings.items()}
    rows["mqtt.password"] = _password(resolved)
    document = {
        "file": None if resolved.file is None else str(resolved.file),
        "settings": {key: {"value": row.value, "source": row.source, "place": row.place} for key, row in rows.items()},
    }
    console.result(document, _table(rows))


@command.command()
@_with_settings
@with_console
def check(console: Console, assignments: tuple[str, ...]) -> None:
    """Check the configuration. Exit code 3: it is invalid."""
    resolved = console.resolve(_flags(assignments))
    resolved.config.mqtt.password()  # an unreadable password file is an error too
    file = None if resolved.file is None else str(resolved.file)
    changed = sum(setting.source != "default" for setting in resolved.settings.values())
    text = f"ok: {file or 'no file, defaults'} ({changed} of {len(resolved.settings)} values set)"
    console.result({"ok": True, "file": file, "set": changed}, text)


def _flags(assignments: tuple[str, ...]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            msg = f"expected KEY=VALUE, found: {assignment!r}"
            raise click.BadParameter(msg, param_hint="--set")
        flags[key.strip()] = value.strip()
    return flags


def _password(resolved: Resolution) -> Setting:
    from pipeline.config.sources import Setting

    path = resolved.config.mqtt.password_path()
    return Setting("", "default") if path is None else Setting(MASK, "file", str(path))


def _table(rows: dict[str, Setting]) -> str:
    texts = [(key, _text(row.value), f"{row.source} {row.place}".strip()) for key, row in rows.items()]
    key_width = max(len(key) for key, _, _ in texts)
    # A long list or table extends beyond its column; the other rows stay aligned.
    value_width = min(max(len(value) for _, value, _ in texts), 44)
    return "\n".join(f"{key:<{key_width}}  {value:<{value_width}}  {source}" for key, value, source in texts)


def _text(value: Any) -> str:
    """A value in TOML syntax."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case tuple() | list():
            return f"[{', '.join(_text(entry) for entry in value)}]"
        case dict():
            return "{" + ", ".join(f"{key} = {_text(entry)}" for key, entry in value.items()) + "}"
        case _:
            return str(value)
