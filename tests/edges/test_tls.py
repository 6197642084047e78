"""TLS, passwords and client certificates against mosquitto: who may in, and what whoever may not is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.broker import Site, payloads, take

from pipeline.config.sources import load
from pipeline.edges.broker import PrivateBroker, is_available
from pipeline.edges.mqtt import MqttPublisher
from pipeline.errors import ConfigError, NotReachable
from pipeline.service.compose import mqtt_settings

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
    pytest.mark.skipif(not is_available("mosquitto"), reason="mosquitto is not installed"),
]


@dataclass
class Authority:
    """A certificate authority and what it signed."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.openssl("req", "-x509", *self.new_key("ca"), "-subj", "/CN=test authority", "-days", "2", "-out", "ca.crt")

    def sign(self, name: str, subject: str, *extensions: str) -> None:
        self.openssl("req", *self.new_key(name), "-subj", subject, "-out", f"{name}.csr")
        (self.folder / "ext").write_text("\n".join(extensions))
        self.openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "ext", "-out", f"{name}.crt"),
        )

    def new_key(self, name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls") / "ours")
    made.sign("broker", "/CN=127.0.0.1", "subjectAltName=IP:127.0.0.1")
    made.sign("service", "/CN=thrumcast")
    made.openssl("ec", "-in", "service.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    made.folder.joinpath("both.pem").write_bytes(made["service.crt"].read_bytes() + made["service.key"].read_bytes())
    return made


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls") / "strange")
    made.sign("service", "/CN=thrumcast")
    return made


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Guarded:
    """A broker that wants a certificate on one port and a password over TLS on another."""

    site: Site
    certificate_port: int
    password_port: int


@pytest.fixture
def guarded(tmp_path: Path, authority: Authority) -> Iterator[Guarded]:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords = tmp_path / "passwords"
    subprocess.run([tool, "-b", "-c", str(passwords), "thrumcast", "geheim"], check=True, capture_output=True)
    passwords.chmod(0o644)
    ports = free_port(), free_port()
    tls = f"cafile {authority['ca.crt']}\ncertfile {authority['broker.crt']}\nkeyfile {authority['broker.key']}\n"
    extra = (
        f"password_file {passwords}\n"
        f"listener {ports[0]} 127.0.0.1\n{tls}require_certificate true\nuse_identity_as_username true\n"
        f"listener {ports[1]} 127.0.0.1\n{tls}"
    )
    with (
        PrivateBroker(tmp_path / "broker", kind="mosquitto", anonymous=False, extra_config=extra) as broker,
        Site(broker) as site,
    ):
        yield Guarded(site, *ports)


def tls(authority: Authority, **more: Path) -> dict[str, object]:
    return {"tls": True, "ca_file": authority["ca.crt"], **more}


@pytest.mark.parametrize("files", [("service.crt", "service.key"), ("both.pem", None)])
def test_who_shows_a_certificate_of_our_authority_gets_in(
    guarded: Guarded, authority: Authority, files: tuple[str, str | None]
) -> None:
    own = {"cert_file": authority[files[0]]} | ({"key_file": authority[files[1]]} if files[1] else {})
    service = guarded.site.service(port=guarded.certificate_port, **tls(authority, **own))
    plant = guarded.site.plant(port=guarded.certificate_port, **tls(authority, **own))
    plant.publish("plant/main/pump-1/drive/vibration", b"x" * 50_000)
    plant.drain()
    assert payloads(take(service, 1)) == [b"x" * 50_000]


def test_who_shows_none_or_a_stranger_s_is_refused(
    guarded: Guarded, authority: Authority, strangers: Authority
) -> None:
    strange = {"cert_file": strangers["service.crt"], "key_file": strangers["service.key"]}
    for own in ({}, strange):
        with pytest.raises(NotReachable) as caught:
            guarded.site.service(port=guarded.certificate_port, **tls(authority, **own))
        assert caught.value.exit_code == 4


def test_a_broker_with_a_stranger_s_certificate_is_not_spoken_to(guarded: Guarded, strangers: Authority) -> None:
    with pytest.raises(NotReachable) as caught:
        guarded.site.service(port=guarded.password_port, **tls(strangers))
    assert "mqtt.tls_ca_file" in str(caught.value.hint)


def test_a_name_and_a_password_from_a_file_get_in_and_a_wrong_one_does_not(
    guarded: Guarded, authority: Authority, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("geheim\n")
    wrong.write_text("secret\n")
    given = {"port": guarded.password_port, "username": "thrumcast", **tls(authority)}
    assert guarded.site.service("right", password_file=right, **given).connected
    for change in ({"password_file": wrong}, {"password_file": right, "username": "somebody"}):
        with pytest.raises(NotReachable) as caught:
            guarded.site.service("wrong", **{**given, **change})
        assert "mqtt.password_file" in str(caught.value.hint)
        assert "geheim" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tls_ca_file": "missing.pem"}, "mqtt.tls_ca_file"),
        ({"tls_ca_file": "broker.key"}, "mqtt.tls_ca_file"),
        ({"tls_cert_file": "missing.pem"}, "mqtt.tls_cert_file"),
        ({"tls_cert_file": "service.crt", "tls_key_file": "missing.key"}, "mqtt.tls_key_file"),
        ({"tls_cert_file": "service.crt", "tls_key_file": "broker.key"}, "mqtt.tls_cert_file"),
        ({"tls_cert_file": "service.crt", "tls_key_file": "locked.key"}, "mqtt.tls_cert_file"),  # asks nobody
        ({"tls_cert_file": "service.crt"}, "mqtt.tls_cert_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_key(authority: Authority, change: dict[str, str], key: str) -> None:
    flags: dict[str, object] = {f"mqtt.{name}": authority[value] for name, value in change.items()}
    settings = mqtt_settings(load(None, {"mqtt.tls": True, **flags}, environment={}).config)
    with pytest.raises(ConfigError, match=key) as caught:
        MqttPublisher(settings)
    assert caught.value.exit_code == 3
