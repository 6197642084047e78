"""The walls of the house: who may import whom, what an import may cost, and how long a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "models", "sim")
# What joins the rooms: these may import everything, and only each other and commands import them.
COMPOSITION = (
    "models.jobs.train",
    "models.jobs.train_values",
    "models.jobs.compare",
    "models.jobs.evaluate",
    "models.jobs.evaluate_values",
    "models.data.dataset",
    "benchmarks.studies.pretrain",
    "models.data.prior",
    "benchmarks.studies.plant_trial",
    "benchmarks.studies.sim_data",
    "benchmarks.studies.sim_to_real",
    "sim.publish",
    "pipeline.__main__",
    "pipeline.cli",
    "pipeline.commands",
    "pipeline.chaos",
)
NOT_FOR_OTHERS = (
    "models.jobs.train",
    "models.jobs.train_values",
    "models.jobs.compare",
    "models.jobs.evaluate",
    "models.jobs.evaluate_values",
    "benchmarks.studies.pretrain",
    "benchmarks.studies.plant_trial",
    "benchmarks.studies.sim_data",
    "benchmarks.studies.sim_to_real",
    "sim.publish",
    "pipeline.cli",
    "pipeline.commands",
    "pipeline.chaos",
)
# config.toml as structs, and from them the specs that core owns.
CONFIGURATION = ("pipeline.config.tables", "pipeline.config.specs")
LONGEST_MODULE_LINES = 300

# Clocks, files, sockets, threads, randomness and logs: what the core must not know.
WORLD = {
    "asyncio", "concurrent", "ctypes", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "secrets",
    "select", "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time",
    "uuid", "warnings",
}  # fmt: skip
CORE_LIBRARIES = {"numpy", "scipy", "numba", "llvmlite", "msgspec"}  # llvmlite is what numba compiles with
# The codec turns bytes into arrays with it; it touches nothing outside.
CODEC_LIBRARIES = {"pyarrow"}


def modules(*packages: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: set[str]) -> set[str]:
    """Every module that is imported anywhere in the tree, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: imports are written in full"
            base = node.module or ""
            # `from pipeline.edges import journal` imports the module journal, `from x import y` else the module x.
            inner = {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in known}
            found |= inner or {base}
    return found


MODULES = modules(*PACKAGES)
IMPORTS = {name: imports(ast.parse(path.read_text(encoding="utf-8")), set(MODULES)) for name, path in MODULES.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def edge_family(name: str) -> str:
    """Which outside system a module of edges belongs to: journal, journal_read and journal.x are all `journal`."""
    return name.removeprefix("pipeline.edges").removeprefix(".").split(".")[0].split("_")[0]


def edge_allowed(name: str, target: str) -> bool:
    shared = ("", "ports", "faults")
    own, other = edge_family(name), edge_family(target)
    # The archive and the journal commit together, so they share their tables.
    return other == own or other in shared or {own, other} == {"archive", "journal"}


def allowed(name: str, target: str) -> bool:
    """Whether module `name` may import our module `target`."""
    if within(name, *COMPOSITION):
        return True
    if within(target, *NOT_FOR_OTHERS):
        return False
    if within(target, "pipeline.errors") or target == "pipeline":
        return True
    if target == "pipeline.kernel_cache":
        return name == "pipeline"
    if name == "pipeline.errors":
        return False
    if within(name, "pipeline.core"):
        return within(target, "pipeline.core")
    if within(target, "pipeline.core"):
        return True
    if name.startswith(CONFIGURATION):
        return target.startswith(CONFIGURATION)
    if within(name, "pipeline.edges"):
        inside = within(target, "pipeline.edges") and edge_allowed(name, target)
        return inside or target.startswith(CONFIGURATION)
    if within(name, "pipeline.drivers"):
        inside = within(target, "pipeline.drivers", "pipeline.edges", "pipeline.telemetry")
        return inside or target.startswith(CONFIGURATION)
    if within(name, "models"):
        return within(target, "models")
    if within(name, "sim"):
        return within(target, "sim")
    return within(name, "pipeline.web") and within(target, "pipeline")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may_import(name: str) -> None:
    ours = {target for target in IMPORTS[name] if within(target, *PACKAGES)}
    assert sorted(target for target in ours if not allowed(name, target)) == []


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if within(name, "pipeline.core")])
def test_the_core_knows_no_clock_file_socket_thread_or_log(name: str) -> None:
    tops = {target.split(".")[0] for target in IMPORTS[name]} - {"pipeline", "__future__"}
    libraries = CORE_LIBRARIES | (CODEC_LIBRARIES if name.rpartition(".")[2].startswith("codec") else set())
    assert sorted(tops & WORLD) == []
    assert sorted(top for top in tops - libraries if top not in sys.stdlib_module_names) == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("pipeline.core.window", "pipeline.edges.mqtt"),
        ("pipeline.core.window", "pipeline.config.tables"),
        ("pipeline.edges.mqtt.link", "pipeline.edges.store.journal"),
        ("pipeline.edges.store.read", "pipeline.edges.recordings.recording"),
        ("pipeline.edges.store.archive", "pipeline.drivers.live"),
        ("pipeline.drivers.live", "models.predictor"),
        ("pipeline.drivers.live", "pipeline.commands.run"),
        ("models.network", "pipeline.edges.store.archive"),
        ("models.network", "models.jobs.train"),
        ("sim.machine", "pipeline.edges.mqtt"),
        ("sim.fleet", "sim.publish"),
        ("pipeline.errors", "pipeline.core.records"),
    ],
)
def test_the_rules_refuse_what_the_architecture_forbids(name: str, target: str) -> None:
    assert not allowed(name, target)


def test_an_import_inside_a_function_is_seen() -> None:
    tree = ast.parse("def f():\n    from pipeline.edges import journal\n    import torch.nn\n")
    assert imports(tree, {"pipeline.edges.store.journal"}) == {"pipeline.edges.store.journal", "torch.nn"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_is_short_enough_to_be_read_at_once(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE_LINES


def loaded_by(code: str, *candidates: str) -> list[str]:
    """Which of the candidates are loaded after a fresh interpreter has run `code`."""
    script = f"{code}\nimport sys\nprint([name for name in {candidates!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names: list[str] = ast.literal_eval(done.stderr.strip().splitlines()[-1])
    return names


def test_importing_pipeline_loads_no_heavy_library() -> None:
    assert loaded_by("import pipeline", "torch", "pyarrow", "paho", "pandas", "scipy", "numba", "numpy") == []


def test_the_help_of_the_command_loads_no_heavy_library() -> None:
    code = "from pipeline.cli import run\nassert run(['--help']) == 0"
    assert loaded_by(code, "torch", "pyarrow", "paho", "pandas", "scipy", "numba") == []


def test_a_start_of_the_service_loads_nothing_that_serving_has_no_use_for() -> None:
    code = (
        "import pipeline.commands.run, pipeline.service.service, pipeline.service.observe, models.predictor\n"
        "from pipeline.core.engine import rehearse\n"
        "rehearse()"
    )
    heavy = ("torch", "pandas", "scipy.fft", "scipy.linalg", "scipy.signal", "scipy.special", "pyarrow.compute")
    loaded_by(code)  # compiles what is not on the disk yet
    assert loaded_by(code, *heavy, "numba.np.arraymath", "pipeline.drivers.backfill") == []
