"""The feature table is the only place that knows columns, and the kernels follow it and every other source."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import features_golden
import pytest

from pipeline.core.features import kernel, lines, spectral, table
from pipeline.core.features.table import AT, COLUMN, FAMILIES, FEATURES, NAMES, ORDERS

ROOT = Path(__file__).resolve().parents[2]
FEATURES_AT = Path("pipeline/core/features")


def test_every_column_number_is_the_place_of_its_line_in_the_table() -> None:
    assert AT._asdict() == COLUMN == {feature.name: i for i, feature in enumerate(FEATURES)}
    arrays = {
        "SHAPE": (spectral.SHAPE_COLUMNS, spectral.SHAPE),
        "bands": (kernel.BAND_COLUMNS, table.BANDS),
        "orders": (kernel.ORDER_COLUMNS, [table.order_name(order) for order in ORDERS]),
        "families": (lines.FAMILY_COLUMNS, [family.feature for family in FAMILIES]),
        "harmonics": (lines.HARMONICS_COLUMNS, [f"{family.feature}_harmonics" for family in FAMILIES]),
    }
    for columns, names in arrays.values():
        assert [NAMES[column] for column in columns] == list(names)


@pytest.mark.parametrize("module", ["kernel", "time_domain", "lines"])
def test_no_number_of_a_column_is_written_down(module: str) -> None:
    """What a feature is written to, `out[...]`, is named by AT or by an array of columns of the table."""
    tree = ast.parse((ROOT / FEATURES_AT / f"{module}.py").read_text())
    literal = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "out"
        for part in ast.walk(node.slice)
        if isinstance(part, ast.Constant)
    ]
    assert literal == []


def copied(folder: Path) -> Path:
    """A copy of the sources that feature computation needs."""
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "features_golden.py", folder / "tests")
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def run(folder: Path, code: str) -> str:
    here = {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "NUMBA_CACHE_DIR": str(folder / "kernels")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | here, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_the_lines_of_the_table_may_stand_in_any_order(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    groups = ("_TIME", "_SPECTRUM", "_ORDERS", "_CEPSTRUM", "_ENVELOPE", "_SPEED", "_BASELINE")
    edit(
        folder / FEATURES_AT / "table.py",
        ", ".join(f"*{group}" for group in groups),
        ", ".join(f"*{group}[::-1]" for group in reversed(groups)),
    )
    code = "import features_golden, json; print(json.dumps(features_golden.compute()))"
    found = json.loads(run(folder, code))
    assert list(found) == list(NAMES)[::-1]
    assert found == features_golden.compute()


def test_a_kernel_is_kept_under_a_name_that_changes_with_every_source_it_is_made_of(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    code = "{first}\nfrom pipeline.core import quality\nfrom pipeline.core.features.kernel import compute_rows\n"
    code += "print(compute_rows.py_func.__qualname__, quality.scan_rows.py_func.__qualname__)"
    before = run(folder, code.format(first=""))
    assert before == run(folder, code.format(first="import numba, pipeline.core.features.fft"))
    names = [before.split()]
    for module in ("features/table", "features/fft", "quality", "engine"):
        with (folder / "pipeline" / "core" / f"{module}.py").open("a") as file:
            file.write("# changed\n")
        names.append(run(folder, code.format(first="")).split())
    rows, scans = zip(*names, strict=True)
    assert len(set(rows[:3])) == 3  # as it was, another table, another transform
    assert len(set(scans[:4])) == 4  # another module of its own, too
    assert rows[2] == rows[3] == rows[4]  # made of nothing in quality.py or engine.py
    assert scans[3] == scans[4]
