"""A model version explains itself, and is refused by name when something does not fit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_world import bundle

from models import bundle as bundles
from models.scaling import CLIP, KINDS, Scaler
from pipeline.errors import ConfigError, ModelError, SchemaError

FILES = ("model.safetensors", "config.json", "metrics.json", "data.json", "train.json", "README.md")


@pytest.fixture
def saved(tmp_path, rng):
    model = bundle(rng, layers=2)
    model.save(tmp_path / "v0001")
    return tmp_path / "v0001", model


def rewrite(directory, name: str, content: bytes) -> None:
    """Change a file together with its sum, as somebody might who means it."""
    (directory / name).write_bytes(content)
    lines = (directory / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in lines if not line.endswith(f"  {name}")]
    kept.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
    (directory / "SHA256SUMS").write_text("\n".join(kept) + "\n")


def test_what_was_saved_is_loaded_to_the_last_bit(saved):
    directory, model = saved
    loaded = bundles.load(directory)
    assert loaded.spec.document() == model.spec.document()
    assert np.array_equal(loaded.spec.scaler.center, model.spec.scaler.center)
    assert np.array_equal(loaded.spec.scaler.scale, model.spec.scaler.scale)
    assert loaded.weights.keys() == model.weights.keys()
    assert all(np.array_equal(loaded.weights[name], weight) for name, weight in model.weights.items())
    assert (loaded.metrics, loaded.data, loaded.train, loaded.card) == (
        model.metrics, model.data, model.train, model.card,
    )  # fmt: skip


def test_a_version_holds_every_promised_file_and_no_pickle(saved):
    directory, _ = saved
    assert {path.name for path in directory.iterdir()} == {*FILES, "SHA256SUMS"}
    config = json.loads((directory / "config.json").read_text())
    for key in ("classes", "inputs", "feature_schema", "window", "bandwidth_hz", "scaler", "temperature", "network"):
        assert key in config


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(saved, name):
    directory, _ = saved
    (directory / name).write_bytes((directory / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"{name}: expected sha256"):
        bundles.load(directory)


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_missing_file_is_refused_by_name(saved, name):
    directory, _ = saved
    (directory / name).unlink()
    with pytest.raises(ModelError, match=f"expected {name}"):
        bundles.load(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_sum_is_refused_by_name(saved, name):
    directory, _ = saved
    lines = (directory / "SHA256SUMS").read_text().splitlines()
    (directory / "SHA256SUMS").write_text("\n".join(line for line in lines if name not in line))
    with pytest.raises(ModelError, match=f"a line for {name}"):
        bundles.load(directory)


def test_a_sum_cannot_name_a_file_elsewhere(saved):
    directory, _ = saved
    with (directory / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../../etc/passwd\n")
    assert bundles.load(directory).spec.version == "v0001"  # the line is no line of ours


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "model format 1, found: 99"),
        ({"classes": ["a", "b"]}, "head.bias of shape"),
        ({"classes": ["a"]}, "two or more classes"),
        ({"classes": ["a", "a", "b"]}, "different classes"),
        ({"inputs": ["x.a"]}, "scaler centers of 1 inputs"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"network": {"cell": "gru", "hidden": 9, "layers": 2}}, "of shape"),
        ({"network": {"cell": "gru", "hidden": 7, "layers": 1}}, "weights gru.bias_hh_l0"),
        ({"scaler": {"kind": "magic", "center": [0] * 5, "scale": [1] * 5}}, "scaler of kind"),
        ({"scaler": {"kind": "robust", "center": [0] * 5, "scale": [1, 1, 0, 1, 1]}}, "scales above 0"),
        ({"scaler": {}}, "complete model description"),
        ({"window": None}, "complete model description"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_and_says_why(saved, change, words):
    directory, model = saved
    rewrite(directory, "config.json", json.dumps(model.spec.document() | change).encode())
    with pytest.raises(ModelError, match=words):
        bundles.load(directory)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"not safetensors at all, whatever it is"])
def test_weights_that_are_none_are_refused(saved, content):
    directory, _ = saved
    rewrite(directory, "model.safetensors", content)
    with pytest.raises(ModelError, match="expected safetensors"):
        bundles.load(directory)


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff"])
def test_a_document_that_is_none_is_refused(saved, content):
    directory, _ = saved
    rewrite(directory, "train.json", content)
    with pytest.raises(ModelError, match=r"train.json: expected"):
        bundles.load(directory)


def test_weights_that_are_not_finite_are_never_written(tmp_path, rng):
    model = bundle(rng)
    model.weights["head.bias"][0] = np.nan
    with pytest.raises(ModelError, match=r"finite numbers in head.bias"):
        model.save(tmp_path / "v0001")
    assert not (tmp_path / "v0001").exists()


def test_a_version_that_is_not_there_says_where_to_look(tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        bundles.load(tmp_path / "v0404")


def test_another_feature_schema_is_refused_and_both_are_named(rng):
    model = bundle(rng)
    model.check_fits("test-1")
    with pytest.raises(SchemaError, match="expected feature schema test-1, found: test-2") as refused:
        model.check_fits("test-2")
    assert refused.value.exit_code == 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    level=st.floats(-1e6, 1e6),
    spread=st.floats(1e-3, 1e6),
)
def test_scaling_is_undone_by_its_inverse_where_nothing_was_clipped(seed, kind, level, spread):
    rng = np.random.default_rng(seed)
    x = rng.normal(level, spread, (50, 2)).astype(np.float32)
    x[0, 0] = np.nan
    scaler = Scaler.fit(x, kind)
    z = scaler.apply(x)
    assert np.isnan(z[0, 0])
    assert np.isnan(z).sum() == 1
    assert np.nanmax(abs(z)) <= CLIP
    inside = abs(z) < CLIP
    np.testing.assert_allclose(scaler.invert(z)[inside], x[inside], rtol=1e-4, atol=1e-4 * spread)


def test_every_kind_of_scaler_does_what_its_name_says(rng):
    x = rng.normal(5, 3, (4000, 1)).astype(np.float32)
    standard, minmax, robust = (Scaler.fit(x, kind).apply(x) for kind in KINDS)
    assert abs(standard.mean()) < 1e-4
    assert standard.std() == pytest.approx(1, abs=1e-4)
    assert (minmax.min(), minmax.max()) == (pytest.approx(-1), pytest.approx(1))
    assert np.median(robust) == pytest.approx(0, abs=1e-4)
    assert robust.std() == pytest.approx(1, abs=0.1)


def test_a_constant_or_absent_feature_scales_to_zero_or_stays_absent():
    x = np.array([[2.0, np.nan]] * 5, np.float32)
    for kind in KINDS:
        z = Scaler.fit(x, kind).apply(x)
        assert (z[:, 0] == 0).all()
        assert np.isnan(z[:, 1]).all()


def test_an_unknown_scaler_names_the_nearest():
    with pytest.raises(ConfigError, match="found: standart") as refused:
        Scaler.fit(np.zeros((2, 1), np.float32), "standart")
    assert "standard" in str(refused.value.hint)


def test_large_tables_of_the_data_document_lie_beside_the_weights_and_come_back(rng, tmp_path):
    table = rng.normal(0, 1, (40, 40)).astype(np.float32).tolist()
    data = {"machines": ["a", "b"], "unknown": {"used": True, "whitening": table, "inputs": ["x.f0"]}, "at": [0.5, 1.0]}
    model = replace(bundle(rng), data=data)
    model.save(tmp_path)
    assert bundles.load(tmp_path).data == data
    assert (tmp_path / "data.json").stat().st_size < 400
    assert json.loads((tmp_path / "data.json").read_text())["unknown"]["whitening"] == {
        "table": "data.unknown.whitening"
    }
    assert set(bundles.load(tmp_path).weights) == set(model.weights)


@pytest.mark.parametrize("rows", [[["a", "b"]], [[1, 2], [3, 4]], [[0.5], [0.5, 1.0]], [[[0.5]]], [[]], [[True]]])
def test_lists_of_lists_that_are_no_tables_of_numbers_come_back_as_they_were(rng, tmp_path, rows):
    replace(bundle(rng), data={"rows": rows}).save(tmp_path)
    assert json.dumps(bundles.load(tmp_path).data) == json.dumps({"rows": rows})


def test_a_data_document_that_refers_to_a_table_that_is_not_there_is_refused(rng, tmp_path):
    replace(bundle(rng), data={"unknown": {"whitening": {"table": "data.elsewhere"}}}).save(tmp_path)
    with pytest.raises(ModelError, match=r"expected the table data\.elsewhere"):
        bundles.load(tmp_path)


@pytest.mark.parametrize("size", [10**9, 10**30, 65_537, -1, 0, "1" * 5000, [], None, float("inf")])
@pytest.mark.parametrize("key", ["hidden", "layers", "members"])
def test_a_size_that_no_machine_could_hold_is_refused_before_anything_is_built(saved, key, size):
    directory, _ = saved
    config = json.loads((directory / "config.json").read_text())
    config["network"][key] = size
    rewrite(directory, "config.json", json.dumps(config).encode())
    with pytest.raises(ModelError):
        bundles.load(directory)


def test_a_card_in_another_encoding_is_read_as_far_as_it_goes(saved):
    directory, _ = saved
    rewrite(directory, "README.md", b"# Modell f\xfcr Pumpen\n")
    assert bundles.load(directory).card == "# Modell f\ufffdr Pumpen\n"


def test_a_pipe_in_the_place_of_a_file_holds_nothing_up(saved):
    directory, _ = saved
    (directory / "data.json").unlink()
    os.mkfifo(directory / "data.json")
    with pytest.raises(ModelError, match=r"data\.json"):
        bundles.load(directory)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**30), 10**30) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_document_holds_the_version_is_loaded_or_refused_by_name(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("fuzz") / "v0001"
    bundle(np.random.default_rng(1), layers=2).save(directory)
    name = data.draw(st.sampled_from(["config.json", "data.json", "metrics.json", "train.json"]))
    document = json.loads((directory / name).read_text())
    place = document
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(anything)
            break
        place = place[key]
    rewrite(directory, name, json.dumps(document).encode())
    with contextlib.suppress(ModelError):
        bundles.load(directory)
