"""`thrumcast bench`: runs the benchmarks of a source checkout."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import Console, with_console

ROOT = Path(__file__).resolve().parents[2]


@click.command(name="bench")
@click.option("--quick", is_flag=True, help="Run each benchmark for a few seconds only, as a check.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Run only this benchmark, such as features; may be repeated."
)
@with_console
def command(console: Console, quick: bool, only: tuple[str, ...]) -> None:
    """Measure the speed of thrumcast on this machine: features, codec, windows, model, archive, backfill, service.

    Needs a source checkout: the installed package contains no benchmarks.
    """
    import json
    import subprocess
    import sys

    from pipeline.errors import ThrumcastError

    folder = ROOT / "benchmarks"
    if not (folder / "__main__.py").is_file():
        msg = f"expected the benchmarks of a source checkout in {folder}, found: none"
        raise ThrumcastError(msg, hint="clone the repository and run `make bench` there")
    names = sorted(path.stem for path in folder.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8"))
    for name in only:
        if name not in names:
            msg = f"{name!r} is none of {', '.join(names)}"
            raise click.BadParameter(msg, param_hint="--only")
    # In a process of its own, because thread pools must be switched off before numpy is loaded.
    arguments = [sys.executable, "-m", "benchmarks", *(f"--only={name}" for name in only)]
    arguments += ["--quick"] * quick + ["--json"] * console.json + ["--quiet"] * console.quiet
    found = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        msg = f"expected benchmarks that end with exit code 0, found: {found.returncode}"
        raise ThrumcastError(msg, hint="see the reason above")
    console.result(json.loads(found.stdout) if console.json else {}, found.stdout.rstrip())
