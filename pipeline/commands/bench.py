"""`thrumcast bench`: the measured table of a source checkout."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, with_console

ROOT = Path(__file__).resolve().parents[2]


@click.command(name="bench")
@click.option("--quick", is_flag=True, help="A few seconds of everything: shows that it works.")
@click.option("--only", multiple=True, metavar="NAME", help="One part of it, such as features; may be repeated.")
@with_console
def command(console: Console, quick: bool, only: tuple[str, ...]) -> None:
    """Measure this machine: features, codec, windows, model, archive, backfill, and the service end to end.

    Needs a source checkout: the benchmarks are not part of the installed package.
    """
    import json
    import subprocess
    import sys

    from pipeline.errors import ThrumcastError

    folder = ROOT / "benchmarks"
    if not (folder / "__main__.py").is_file():
        msg = f"the benchmarks of a source checkout in {folder} expected, found: none"
        raise ThrumcastError(msg, hint="clone the repository and run `make bench` there")
    names = sorted(path.stem for path in folder.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8"))
    for name in only:
        if name not in names:
            msg = f"{name!r} is none of {', '.join(names)}"
            raise click.BadParameter(msg, param_hint="--only")
    # A process of its own: thread pools can be switched off only before numpy is loaded.
    arguments = [sys.executable, "-m", "benchmarks", *(f"--only={name}" for name in only)]
    arguments += ["--quick"] * quick + ["--json"] * console.json + ["--quiet"] * console.quiet
    found = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        msg = f"benchmarks that end with exit code 0 expected, found: {found.returncode}"
        raise ThrumcastError(msg, hint="the reason is above")
    console.result(json.loads(found.stdout) if console.json else {}, found.stdout.rstrip())
