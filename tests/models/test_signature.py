"""Signed versions: whatever is not signed with the key is refused by name, and the old version goes on serving."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import bundle

from models import signature
from models.registry import Registry
from pipeline import cli
from pipeline.config.sources import load
from pipeline.config.specs import feature_spec
from pipeline.config.tables import Config
from pipeline.errors import ConfigError, ModelError
from pipeline.service.models import LiveConfig, RegistryWatch, load_bundle

KEY = b"k" * 32


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two versions, the first of which is signed and serves, and a configuration with the key."""
    registry = Registry(tmp_path / "data")
    model = bundle(np.random.default_rng(1))
    model = replace(model, spec=replace(model.spec, feature_schema=feature_spec(Config()).schema))
    for _ in range(2):
        registry.add(model)
    registry.point("champion", "v0001", why="first")
    signature.sign(registry.root / "v0001", KEY)
    (tmp_path / "key").write_bytes(KEY + b"\n")
    (tmp_path / "config.toml").write_text(
        f'[data]\ndir = "{tmp_path / "data"}"\n[model]\nsignature_key_file = "{tmp_path / "key"}"\n'
    )
    return tmp_path


def config(world: Path) -> Config:
    return load(world / "config.toml", environment={}).config


def forge(version: Path) -> None:
    """Change the weights, and the sums with them, as somebody does who may write the registry."""
    weights = bytearray((version / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (version / "model.safetensors").write_bytes(weights)
    lines = (version / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256(weights).hexdigest()
    lines = [f"{digest}  model.safetensors" if line.endswith("model.safetensors") else line for line in lines]
    (version / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("how", ["none", "other key", "forged", "of another version", "renamed", "cut", "a pipe"])
def test_a_version_without_its_signature_is_refused_and_the_old_one_goes_on_serving(
    world: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    registry = Registry(world / "data")
    new, old = registry.root / "v0002", registry.root / "v0001"
    sign = new / "SIGNATURE"
    if how == "other key":
        signature.sign(new, b"x" * 32)
    elif how == "forged":
        signature.sign(new, KEY)
        forge(new)
    elif how == "of another version":
        shutil.copy(old / "SIGNATURE", sign)
    elif how == "renamed":
        shutil.rmtree(new)
        shutil.copytree(old, new)
    elif how == "cut":
        signature.sign(new, KEY)
        sign.write_bytes(sign.read_bytes()[:20])
    elif how == "a pipe":
        os.mkfifo(sign)
    watch = RegistryWatch.after(LiveConfig(config(world), {}, lambda: config(world)))
    registry.point("champion", "v0002", why="by hand")
    with caplog.at_level(logging.ERROR):
        assert watch.due() is None
    assert watch.refusal is not None
    assert "v0002: expected a signature with the key of model.signature_key_file" in watch.refusal
    with pytest.raises(ModelError, match="expected a signature"):
        load_bundle(config(world))
    if how != "renamed":
        registry.load("v0002")  # whole, but for the signature
    served = load_bundle(config(world), "v0001")
    assert served is not None
    assert served.spec.version == "v0001"
    if how != "renamed":
        signature.sign(new, KEY)
        watch.look_again()
        loaded = watch.due()
        assert loaded is not None
        assert loaded.predictor is not None
        assert loaded.predictor.version == "v0002"


def test_promote_and_rollback_refuse_what_is_not_signed_and_sign_makes_it_right(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    assert cli.run(["promote", "v0002", "--yes", "--force"]) == ModelError.exit_code
    assert cli.run(["rollback", "--to", "v0002"]) == ModelError.exit_code
    assert "thrumcast models sign v0002" in capsys.readouterr().err
    assert Registry(world / "data").aliases() == {"champion": "v0001"}
    assert cli.run(["models", "sign", "v0002", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "v0002"
    assert cli.run(["promote", "v0002", "--yes", "--force"]) == 0
    assert cli.run(["rollback"]) == 0
    assert Registry(world / "data").aliases() == {"champion": "v0001"}


def test_a_damaged_version_is_not_signed_and_no_key_is_an_error(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Registry(world / "data").root / "v0002"
    (version / "metrics.json").write_text("{}")
    with pytest.raises(ModelError, match="sha256"):
        signature.sign(version, KEY)
    assert not (version / "SIGNATURE").exists()
    monkeypatch.chdir(world)
    (world / "config.toml").write_text("")
    assert cli.run(["models", "sign", "v0001", "--data", str(world / "data")]) == ConfigError.exit_code
    assert "openssl rand" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"short", b" " * 64, b"x" * 31])
def test_a_key_that_is_missing_or_too_short_is_refused_by_name(world: Path, content: bytes | None) -> None:
    (world / "key").unlink()
    if content is not None:
        (world / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model.signature_key_file: expected"):
        load_bundle(config(world))


def test_without_a_key_a_signature_is_neither_needed_nor_looked_at(world: Path) -> None:
    registry = Registry(world / "data")
    (registry.root / "v0001" / "SIGNATURE").write_bytes(b"\xff")
    assert registry.load("v0001").spec.version == "v0001"
    assert registry.load("v0002").spec.version == "v0002"


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["v0001", "v0010", "v00"]))
def test_other_sums_or_another_name_have_another_signature(one: bytes, other: bytes, name: str) -> None:
    made = signature.signature("v0001", one, KEY)
    assert (made == signature.signature(name, other, KEY)) == ((name, other) == ("v0001", one))
