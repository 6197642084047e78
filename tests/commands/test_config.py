"""The configuration: defaults, precedence, and errors that name the key."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from harness.config import resolved
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.config.keys import dotted, known_keys
from pipeline.config.sources import load
from pipeline.config.tables import BearingConfig, Config
from pipeline.core.severity import Limits
from pipeline.edges.mqtt import TopicTemplate
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_FILE = ROOT / "config.toml"
pytestmark = pytest.mark.usefixtures("no_configuration")


def refusal(text: str = "", flags: dict[str, object] | None = None, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolved(text, flags, **environment)
    assert caught.value.exit_code == 3
    return caught.value


def general_keys() -> list[tuple[str, ...]]:
    return [key for key in known_keys() if key[0] != "machines"]


def toml(value: object) -> str:
    """The value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value)
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
        case _:
            msg = "TOML has no null"
            raise TypeError(msg)


def test_the_file_in_the_repository_says_exactly_the_built_in_defaults() -> None:
    assert load(DEFAULT_FILE, environment={}).config == Config()


def test_the_file_in_the_repository_has_every_key_that_there_is() -> None:
    found = load(DEFAULT_FILE, environment={}).settings
    assert {key for key, setting in found.items() if setting.source == "file"} == set(general_keys())


def test_every_key_of_the_file_in_the_repository_has_a_comment() -> None:
    lines = DEFAULT_FILE.read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\w+ = ", line) and "# " not in line and not before.startswith("#")
    ]
    assert bare == []


def test_the_commented_machine_of_the_file_in_the_repository_works() -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    example = text[text.index("# [machines.") :].replace("\n# ", "\n").removeprefix("# ").replace("\n#\n", "\n\n")
    config = resolved(example).config
    here, there = config.machine("pump-01", "de"), config.machine("pump-01", "fan-end")
    assert (here.area, here.speed_rpm, here.unit, here.window.length_s) == ("hall-2", 1480.0, "g", 2.0)
    assert isinstance(here.bearing, BearingConfig)
    assert isinstance(there.bearing, BearingConfig)
    assert here.bearing.elements == 9
    assert there.bearing.bpfo == 3.0530
    assert config.machine("pump-01", "drive-end").bearing == "6205"
    assert here.limits == Limits(2.3, 4.5, 7.1, "maker")


@given(port=st.integers(1, 65535), length_s=st.floats(1e-3, 1e4), tls=st.booleans())
def test_what_is_set_in_the_environment_arrives_with_its_type(port: int, length_s: float, tls: bool) -> None:
    environment = {
        "THRUMCAST_MQTT__PORT": str(port),
        "THRUMCAST_WINDOW__LENGTH_S": repr(length_s),
        "THRUMCAST_MQTT__TLS": str(tls).lower(),
    }
    config = load(environment=environment).config
    assert (config.mqtt.port, config.window.length_s, config.mqtt.tls) == (port, length_s, tls)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default() -> None:
    text = '[mqtt]\nhost = "file"\n[window]\nlength_s = 2.0\n[data]\ndir = "file"'
    environment = {"THRUMCAST_WINDOW__LENGTH_S": "3.0", "THRUMCAST_DATA__DIR": "env"}
    found = resolved(text, {"data.dir": Path("flag")}, **environment)
    assert (found.config.mqtt.host, found.config.window.length_s, found.config.data.dir) == ("file", 3.0, "flag")
    sources = {dotted(key): setting.source for key, setting in found.settings.items()}
    keys = ("data.dir", "window.length_s", "mqtt.host", "window.hop_s")
    assert [sources[key] for key in keys] == ["flag", "env", "file", "default"]


def test_the_file_of_the_working_directory_is_found_without_being_named() -> None:
    Path("config.toml").write_text("[window]\nhop_s = 0.125\n", encoding="utf-8")
    found = load(environment={})
    assert found.config.window.hop_s == 0.125
    assert found.file == Path("config.toml")


def test_a_variable_without_a_section_is_not_ours() -> None:
    assert resolved(THRUMCAST_SHARED_DATA="somewhere", OTHER__KEY="1").config == Config()


@pytest.mark.parametrize("key", general_keys(), ids=dotted)
def test_a_misspelt_key_is_refused_and_the_right_one_named(key: tuple[str, ...]) -> None:
    section, name = key
    wrong = f"{name}x"
    error = refusal(f"[{section}]\n{wrong} = 1")
    assert error.message == f"{section}.{wrong}: unknown key"
    assert error.hint == f"nearest known key: {section}.{name}"


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[windw]\nhop_s = 1", "windw", "window"),
        ("[commit]\nhop_s = 1", "commit.hop_s", "window.hop_s"),
        ("[machines.p]\nspeed = 1", "machines.p.speed", "machines.p.speed_rpm"),
        ('[machines."p.1"]\nspeed = 1', 'machines."p.1".speed', 'machines."p.1".speed_rpm'),
        ("[machines.p.points.de]\nspeed = 1", "machines.p.points.de.speed", "machines.p.points.de.speed_rpm"),
        ("[machines.p.bearing]\nbpfoo = 1", "machines.p.bearing.bpfoo", "machines.p.bearing.bpfo"),
    ],
)
def test_an_unknown_key_is_named_in_full_with_the_nearest_known_one(text: str, key: str, nearest: str) -> None:
    error = refusal(text)
    assert error.message == f"{key}: unknown key"
    assert error.hint == f"nearest known key: {nearest}"


def test_an_unknown_variable_or_flag_is_refused_like_an_unknown_key() -> None:
    assert refusal(THRUMCAST_MQTT__PROT="1").hint == "nearest known key: mqtt.port"
    assert refusal(flags={"window.length": 1.0}).hint == "nearest known key: window.length_s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[window]\nlength_s = -1", "window.length_s: expected float > 0.0, found: -1"),
        ("[window]\nlength_s = nan", "window.length_s: expected a finite number, found: nan"),
        ("[window]\nhop_s = inf", "window.hop_s: expected a finite number, found: inf"),
        ("[window]\nhop_s = true", "window.hop_s: expected float, found: True"),
        ("[mqtt]\nport = 0", "mqtt.port: expected int >= 1, found: 0"),
        ("[mqtt]\nport = 65536", "mqtt.port: expected int <= 65535, found: 65536"),
        ('[mqtt]\nport = "1883"', "mqtt.port: expected int, found: '1883'"),
        ("[alarm]\nenter_p = 1.5", "alarm.enter_p: expected float <= 1.0, found: 1.5"),
        ("[alarm]\nenter_p = 0.4", "alarm.leave_p: expected at most alarm.enter_p (0.4), found: 0.5"),
        ("window = 3", "window: expected a table, found: 3"),
        ("[machines]\np = 3", "machines.p: expected a table, found: 3"),
        ('[machines.p]\nunit = "kg"', "machines.p.unit: expected one of g, m/s2, mm/s, V, 1, found: 'kg'"),
        ("[machines.p.window]\nhop_s = 0", "machines.p.window.hop_s: expected float > 0.0, found: 0"),
        ('[web]\nbind = "8080"', "web.bind: expected ADDRESS:PORT, found: '8080'"),
        ('[web]\nbind = "127.0.0.1:99999"', "web.bind: expected ADDRESS:PORT, found: '127.0.0.1:99999'"),
        ('[model]\nalias = "a/b"', "model.alias: expected a name of A-Z a-z 0-9 _ . -, found: 'a/b'"),
        (
            "[features]\nenvelope_high_hz = 6000",
            "features.envelope_high_hz: expected at most features.bandwidth_hz (5000.0), found: 6000.0",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_was_expected(text: str, message: str) -> None:
    assert refusal(text).message == message


def test_a_value_that_cannot_be_used_says_where_it_was_set() -> None:
    assert refusal("[mqtt]\nport = 0").hint == "set in given.toml"
    assert refusal(THRUMCAST_MQTT__PORT="many").hint == "set in THRUMCAST_MQTT__PORT"


def test_everything_that_is_wrong_is_named_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    text = "[mqtt]\nport = 0\nprot = 1\n[windw]\nhop_s = 1\n[machines.a]\nspeed_rpm = -1\n[machines.'b c']\n"
    error = refusal(text, {"window.hop_s": "soon"}, THRUMCAST_MQTT__TLS="perhaps", THRUMCAST_MQTT__HOSST="x")
    keys = [one.message.split(": ")[0] for one in (error, *error.others)]
    wrong = ["mqtt.prot", "windw", 'machines."b c"', "mqtt.hosst", "mqtt.port", "machines.a.speed_rpm", "mqtt.tls"]
    assert keys == [*wrong, "window.hop_s"]
    Path("config.toml").write_text(text, encoding="utf-8")
    assert cli.run(["config", "check", "--json"]) == 3
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert err.count("error:") == 5 == 1 + len(document["others"])
    assert document["others"][0]["hint"].startswith("nearest known key: window")


def test_values_that_do_not_fit_together_are_all_named() -> None:
    text = '[alarm]\nenter_p = 0.4\n[web]\nbind = "8080"\n[mqtt]\nresults_topic = "a/#"\ntls_ca_file = "x"\n'
    text += '[machines.a]\nspeed_min_rpm = 5.0\n[machines.a.bearing]\nftf = 1.0\n[machines.b]\nbearing = "no such"\n'
    error = refusal(text)
    keys = {one.message.split(": ")[0] for one in (error, *error.others)}
    assert keys == {
        "alarm.leave_p", "web.bind", "mqtt.results_topic", "mqtt.tls", "machines.a.speed_max_rpm",
        "machines.a.bearing", "machines.b.bearing",
    }  # fmt: skip


def test_a_number_too_large_to_hold_is_refused_in_one_short_line() -> None:
    error = refusal("[window]\nlength_s = " + "9" * 4000)
    assert error.message.startswith("window.length_s: expected a number that fits into 64 bits, found: 9999")
    assert len(error.message) < 200


@pytest.mark.parametrize(
    "template",
    [
        "plant/{machine}", "plant/{point}", "plant/x{machine}/{point}", "a/+/{machine}/{point}",
        "{machine}/{machine}/{point}", "{line}/{machine}/{point}", "$share/g/{machine}/{point}", "{machine}/{point}/#",
        "",
    ],
)  # fmt: skip
def test_a_template_that_does_not_name_machine_and_point_plainly_is_refused(template: str) -> None:
    assert refusal(f'[mqtt]\nreadings_topic = "{template}"').message.startswith("mqtt.readings_topic: expected ")


def test_an_area_may_be_left_out_of_the_template() -> None:
    assert (
        resolved('[mqtt]\nreadings_topic = "in/{machine}/{point}"').config.mqtt.readings_topic == "in/{machine}/{point}"
    )


@pytest.mark.parametrize("base", ["", "a/#", "+/a", "a//b", "$SYS/a", "/a"])
def test_results_go_to_a_plain_topic(base: str) -> None:
    assert refusal(f'[mqtt]\nresults_topic = "{base}"').message.startswith("mqtt.results_topic: expected ")


@pytest.mark.parametrize("bad", ["pu mp", "..", "a/b", "x" * 65, "", "päm"])
def test_an_id_that_cannot_be_part_of_a_topic_is_refused(bad: str) -> None:
    for text in (f'[machines."{bad}"]\narea = "a"', f'[machines.p.points."{bad}"]\narea = "a"'):
        assert "expected an id of 1 to 64 characters" in refusal(text).message
    if bad and "." not in bad:
        assert "expected an id" in refusal(flags={f"machines.{bad}.speed_rpm": "1"}).message


def test_a_file_that_is_not_there_is_an_error_only_when_it_was_named() -> None:
    assert load(environment={}).file is None
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a readable configuration file"):
        load(Path("nowhere.toml"), environment={})


@pytest.mark.parametrize("content", [b"[mqtt", b"a = b", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_one_error(content: bytes) -> None:
    Path("given.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"given\.toml: expected TOML"):
        load(Path("given.toml"), environment={})


@example("", ("machines",))
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from([*known_keys(), ("machines",), ("machines", "p"), ("machines", "p", "points"), ("window",)]),
)
def test_any_value_at_any_key_is_taken_or_refused_as_a_config_error(value: object, key: tuple[str, ...]) -> None:
    try:
        text = f"{dotted(key)} = {toml(value)}"
        tomllib.loads(text)
    except (TypeError, ValueError):
        return  # nothing that a TOML file can say
    try:
        found = resolved(text)
    except ConfigError:
        return
    assert isinstance(found.config, Config)


def test_the_commented_payload_table_of_the_file_in_the_repository_works() -> None:
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    lines = text[text.index("# [[payloads]]") : text.index("# Machines.")].splitlines()
    (table,) = resolved("\n".join(line.removeprefix("# ") for line in lines)).config.payloads
    assert (table.topic, table.samples["y"], table.rate_hz) == ("sensors/{machine}/accel", "$.data[*][1]", 3200.0)
    assert {line.split(" = ")[0].removeprefix("# ") for line in lines if " = " in line} == set(table.__struct_fields__)


@pytest.mark.parametrize(
    "template",
    ["/plant/{machine}/{point}", "plant//{machine}/{point}", "plant/{machine}/{point}/", "//{machine}/{point}"],
)
def test_a_topic_may_have_empty_levels(template: str) -> None:
    config = resolved(f'[mqtt]\nreadings_topic = "{template}"\n').config
    topics = TopicTemplate(config.mqtt.readings_topic)
    topic = topics.format(machine="m", point="p")
    assert topics.parse(topic) == ("m", "p")
    assert topics.subscription == template.replace("{machine}", "+").replace("{point}", "+")
    assert topics.parse(f"x{topic}") is None
