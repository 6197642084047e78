"""The API against its own description: schemathesis draws requests from it, valid and not, for every operation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from harness.paged import ORIGIN, Paged, paged
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from pipeline.page.openapi import document

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis: pip install thrumcast[e2e]")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import CHECKS  # noqa: E402

# A time or an id may have the right form and be none: the description cannot say so, the answer does (422).
LEFT_OUT = ["positive_data_acceptance"]
# A training is no question that is asked a hundred times; the stream of events has no end.
OPERATIONS = [
    (path, method)
    for path, entry in document()["paths"].items()
    for method in entry
    if (path, method) not in (("/api/stream", "get"), ("/api/v1/training", "post"))
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    with paged(tmp_path_factory.mktemp("schema")) as made:
        made.feed()
        yield made


@pytest.fixture(scope="module")
def described(served: Paged) -> Any:
    return schemathesis.openapi.from_asgi("/api/openapi.json", served.page.app, headers={"Host": "localhost"})


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_described(described: Any, path: str, method: str, mode: GenerationMode) -> None:
    try:
        cases = described[path][method].as_strategy(generation_mode=mode)
        left_out = [check for check in CHECKS.get_all() if check.__name__ in LEFT_OUT]

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(cases)
        def answers(case: Any) -> None:
            case.call_and_validate(headers={**ORIGIN, "Host": "localhost"}, excluded_checks=left_out)

        answers()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with a request without parameters
