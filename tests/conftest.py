"""Fixtures that several test files share: a seeded generator, the real recordings, real brokers."""

from __future__ import annotations

import os

# One thread per worker: two workers with two threads each would wait for one another. Before NumPy and torch load.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from archive_plant import Plant
from harness.broker import Site

from pipeline.chaos.ground import Ground, ground
from pipeline.core.engine import rehearse
from pipeline.edges.broker import PrivateBroker, is_available

# `fixed` draws the same examples every time, on every machine: a test that fails here fails again where it is mended.
# `explore` (`make explore`) draws new ones. Neither has a deadline, because machines are shared.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


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


@pytest.fixture(scope="session")
def compiled() -> None:
    """For tests that start a service: a first start compiles for half a minute, much longer on a busy machine.

    It connects to nobody meanwhile. Processes find what was compiled here.
    """
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
