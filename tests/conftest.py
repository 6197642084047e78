"""Fixtures that several test files share: a seeded generator, the real recordings, real brokers."""

from __future__ import annotations

import os

# One thread per worker: two workers with two threads each would wait for one another. Before NumPy and torch load.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import fcntl
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from archive_plant import Plant
from harness import costs
from harness.broker import Site

from pipeline.chaos.ground import Ground, ground
from pipeline.core.rehearsal import rehearse
from pipeline.edges.broker import PrivateBroker, is_available

# `fixed` draws the same examples every time, on every machine: a test that fails here fails again where it is mended.
# `explore` (`make explore`) draws new ones. Neither has a deadline and `fixed` may draw slowly: machines are shared.
hypothesis.settings.register_profile(
    "fixed", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


WITHOUT_KERNELS = ("models", "edges")  # folders of tests; the few kernels that these need are loaded or compiled


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; what needs it is skipped where it is not."""
    folder = os.environ.get("THRUMCAST_SHARED_DATA")
    path = Path(folder) if folder else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}; set THRUMCAST_SHARED_DATA")
    return path


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are processors: tests of a running service wait most of their time."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get(costs.VARIABLE):
        config.pluginmanager.register(costs.Costs(Path(path)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without signal processing run last, and all others start with compiled kernels.

    Of two workers one then begins with each kind: one compiles, for a minute of a processor, and the other has work
    that needs no kernel. The sort is stable, so the order within each kind stays random.
    """
    items.sort(key=lambda item: item.path.parent.name in WITHOUT_KERNELS)
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name not in WITHOUT_KERNELS:
            item.fixturenames.insert(0, "compiled")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiles every kernel, or loads what another worker has compiled. Processes started later find it on the disk.

    One worker of this run at a time: what the first has compiled costs the others a quarter of a second.
    """
    with (tmp_path_factory.getbasetemp().parent / "compiled.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rehearse()


@pytest.fixture(params=["mosquitto", "iotcore"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateBroker]:
    """Each of the two brokers that we start ourselves, fresh for every test."""
    if not is_available(request.param):
        pytest.skip(f"{request.param} is not installed")
    with PrivateBroker(tmp_path / "broker", kind=request.param) as started:
        yield started


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[PrivateBroker]:
    """For what iotcore cannot do: keep its sessions over a restart."""
    if not is_available("mosquitto"):
        pytest.skip("mosquitto is not installed")
    with PrivateBroker(tmp_path / "broker", kind="mosquitto") as started:
        yield started


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., AbstractContextManager[Ground]]:
    """Makes the world of a trial under tmp_path/trial: mosquitto, a data directory with a model, the service."""
    if not is_available("mosquitto"):
        pytest.skip("mosquitto is not installed")
    return functools.partial(ground, tmp_path / "trial")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A journal with its archive under tmp_path/data."""
    opened = Plant(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def first_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a plant on which one quick training has been done; not to be changed."""
    from harness.trained import trained
    from model_world import archive_of_plant

    data = tmp_path_factory.mktemp("first-training")
    archive_of_plant(data, np.random.default_rng(20240229))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.evaluation.plots.available", lambda: False)
        trained(data)
    return data


@pytest.fixture
def taught(first_training: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own whose v0001 is challenger and champion."""
    shutil.copytree(first_training, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(autouse=True)
def quick_versions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training draws no pictures unless the test is marked `pictures`: they cost more than a small network."""
    if "models.evaluation.plots" in sys.modules and request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("models.evaluation.plots.available", lambda: False)


@pytest.fixture
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory of its own, and nothing said by a file or by the service manager."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.config.sources.SEARCHED_FILES", (Path("config.toml"),))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def site(broker: PrivateBroker) -> Iterator[Site]:
    """Both brokers with the clients around them."""
    with Site(broker) as made:
        yield made
