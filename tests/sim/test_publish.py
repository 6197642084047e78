"""The plant on its way out: paced, encoded, recorded, and through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness.broker import Site, settings, take

from pipeline.cli import run
from pipeline.core.codec import decode
from pipeline.core.records import StreamKey
from pipeline.edges.machines import MachinesFile
from pipeline.edges.mqtt import MqttPublisher, TopicTemplate
from pipeline.edges.recordings.recording import open_recording, streams
from pipeline.edges.store.journal import Journal
from pipeline.errors import ConfigError, RecordingError
from sim.channel import Counts, Faults, disturb
from sim.fleet import machine_blocks
from sim.publish import Progress, episodes, messages, to_broker, to_recordings
from sim.recipe import Recipe, plant

TOPICS = TopicTemplate("plant/{area}/{machine}/{point}/vibration")


class Recorder:
    """An outlet with a clock of its own: a message takes 0.01 s, waiting takes what it takes."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.sent: list[tuple[float, str, bytes]] = []

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        assert qos == 1
        self.sent.append((self.time_s, topic, payload))
        self.time_s += 0.01

    def rest(self, seconds: float) -> None:
        self.time_s += seconds


def _publish(speed: float, machines: int = 2, seconds: float = 2.0) -> tuple[Recorder, Progress]:
    made, outlet = plant(machines, 1), Recorder()
    outgoing = messages(made.blocks(seconds), TOPICS)
    sums = list(to_broker(outgoing, outlet, made.start_ns, speed=speed, now_s=lambda: outlet.time_s))
    return outlet, sums[-1]


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_reading_goes_out_when_its_last_sample_has_been_taken(speed: float) -> None:
    outlet, sent = _publish(speed)
    assert sent.messages == len(outlet.sent) == 16
    first_of_each = [at_s for at_s, topic, _ in outlet.sent if "pump-01" in topic]
    assert first_of_each == pytest.approx([100 + 0.25 * (k + 1) / speed for k in range(8)])


def test_speed_0_never_waits() -> None:
    outlet, sent = _publish(0.0)
    assert [at_s for at_s, _, _ in outlet.sent] == pytest.approx([100 + 0.01 * k for k in range(16)])
    assert sent.behind_s == 0


def test_a_sender_that_cannot_keep_up_says_by_how_much() -> None:
    _, sent = _publish(speed=100.0)
    assert sent.behind_s == pytest.approx(0.15 - 0.02, abs=0.02)  # 15 messages of 0.01 s in 0.02 s of plant time


def test_what_goes_out_decodes_to_what_the_plant_made() -> None:
    outlet, sent = _publish(0.0, machines=1, seconds=1.0)
    made = list(plant(1, 1).blocks(1.0))
    assert sent.payload_bytes == sum(len(payload) for _, _, payload in outlet.sent)
    for (_, topic, payload), block in zip(outlet.sent, made, strict=True):
        assert topic == "plant/main/pump-01/de/vibration"
        found = decode(payload, StreamKey("pump-01", "de"), max_payload_bytes=2**21)
        np.testing.assert_array_equal(found.samples, block.samples)
        assert (found.session, found.index, found.t0_ns) == (block.session, block.index, block.t0_ns)
        assert (found.truth, found.orders, found.unit) == (block.truth, block.orders, "g")


@pytest.mark.parametrize("speed", [-1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match="speed must be 0"):
        _publish(speed)


# recordings


def test_recordings_hold_every_sample_and_their_truth(tmp_path: Path) -> None:
    made = plant(4, 4, Recipe(failing=1.0, life_s=4.0, onset=(0.2, 0.6)))
    written = list(to_recordings(made, 4.0, tmp_path))
    assert {w.path for w in written} == set(tmp_path.glob("*.parquet"))
    for machine in made.machines:
        own = [w for w in written if w.machine == machine.id]
        assert [w.mode for w in own] == ["healthy", machine.life.courses[0].mode]
        read, end_ns, sessions = [], made.start_ns, []
        for w in own:
            recording = open_recording(w.path)
            (stream,) = streams(recording)
            assert recording.truth == w.mode
            assert recording.machine == f"sim-{machine.id}"
            assert stream.orders == machine.make.orders
            assert recording.speed_rpm == pytest.approx(60 * machine.make.speed_hz, rel=0.04)
            blocks = list(stream.blocks())
            assert blocks[0].t0_ns == end_ns
            end_ns += round(recording.samples / recording.rate_hz * 1e9)
            sessions.append(blocks[0].session)
            read += [block.samples for block in blocks]
        assert len(set(sessions)) == 2
        source = machine_blocks(machine, 4.0, 0)
        np.testing.assert_array_equal(np.concatenate(read, axis=1), next(source).samples)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        list(to_recordings(plant(2, 4), 1.0, tmp_path / name))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_episode_ends_where_the_truth_changes_or_after_five_minutes() -> None:
    made = plant(1, 1, Recipe(failing=1.0, life_s=1000.0, onset=(0.2, 0.6)))
    (machine,) = made.machines
    found = episodes(made, machine, 1000.0)
    assert [e.first for e in found[1:]] == [e.last for e in found[:-1]]
    assert (found[0].first, found[-1].last) == (0, 4000)
    assert max(e.last - e.first for e in found) == 1200
    first_bad = next(e for e in found if e.mode != "healthy")
    assert 0 <= first_bad.first * 0.25 - machine.life.detectable_s() < 0.25


def test_one_file_holds_one_sound_machine(tmp_path: Path) -> None:
    target = tmp_path / "one.parquet"
    (written,) = to_recordings(plant(1, 1, Recipe(failing=0.0)), 1.0, target)
    assert written.path == target
    assert open_recording(target).truth == "healthy"


def test_what_does_not_fit_into_the_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="expected one episode for a single file"):
        list(to_recordings(plant(2, 1), 1.0, tmp_path / "one.parquet"))
    list(to_recordings(plant(1, 1), 1.0, tmp_path / "folder"))
    with pytest.raises(RecordingError, match="a folder without recordings"):
        list(to_recordings(plant(1, 2), 1.0, tmp_path / "folder"))


# the command


def test_the_command_writes_recordings_and_says_what_is_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "--machines", "2", "--seconds", "3", "--out", str(tmp_path / "plant"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine_seconds"] == 6
    assert {Path(r["file"]).name for r in document["recordings"]} == {p.name for p in (tmp_path / "plant").iterdir()}
    assert [m["id"] for m in document["machines"]] == ["pump-01", "fan-02"]


def test_nameplates_say_what_a_sender_knows_and_nothing_of_what_will_become_of_a_machine(tmp_path):
    command = ["sim", "--machines", "8", "--seed", "7", "--nameplates", str(tmp_path / "plant")]
    assert run(command) == 0
    facts = MachinesFile(tmp_path / "plant" / "machines.jsonl").load()
    teeth = {key.machine for key, known in facts.items() if known.get("gear_teeth")}
    assert teeth == {"gearbox-04", "gearbox-08"}
    assert {name for known in facts.values() for name in known} == {"kind", "bearing_id", "simulated", "gear_teeth"}
    before = (tmp_path / "plant" / "machines.jsonl").read_bytes()
    assert run(command) == 0
    assert (tmp_path / "plant" / "machines.jsonl").read_bytes() == before
    with Journal(tmp_path / "plant"):
        assert run(command) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--out", "x", "--broker", "mqtt://h"], 2, "--out"),
        (["--rate-hz", "500", "--out", "x"], 2, "rate_hz must be 1000 to 51200"),
        (["--broker", "http://h"], 3, "mqtt://HOST:PORT"),
        (["--broker", "mqtt://me:secret@h"], 3, "mqtt.password_file"),
        (["--transport", "lose=0.1"], 2, "drop, duplicate"),
        (["--transport", "drop=2"], 2, "chances of 0 to 1"),
        (["--seconds", "0"], 2, "must be more than 0"),
        (["--seconds", "0.1", "--out", "x"], 2, "at least one block of 0.25 s"),
        (["--speed", "-1"], 2, "--speed"),
        (["--axes", "x,x"], 2, "each once"),
        (["--modes", "rust", "--out", "x"], 2, "failure mode"),
        (["--truth", "nowhere/t.json"], 1, "can be written"),
        (["--failing", "2"], 2, "share 'failing'"),
        (["--broker", "mqtt://127.0.0.1:1", "--seconds", "1"], 4, "127.0.0.1:1"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_its_exit_code(
    arguments: list[str],
    code: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sim", *arguments]) == code
    told = capsys.readouterr()
    assert word in told.err
    assert "secret" not in told.err
    assert told.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.network
def test_the_command_sends_a_plant_through_a_real_broker(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    service = site.service(subscription=TOPICS.subscription)
    url = f"mqtt://{site.broker.host}:{site.broker.port}"
    assert run(["sim", "--machines", "3", "--seconds", "2", "--speed", "0", "--broker", url, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["messages"] == document["acknowledged"] == 24
    received = take(service, 24)
    keys = {key for message in received if (key := TOPICS.parse(message.topic)) is not None}
    assert {key.machine for key in keys} == {"pump-01", "fan-02", "motor-03"}
    sample = decode(received[0].payload, StreamKey("pump-01", "de"), max_payload_bytes=2**21)
    assert sample.samples.shape == (3, 3000)


@pytest.mark.network
def test_what_arrives_over_a_bad_network_is_what_was_counted(site: Site) -> None:
    service, counts = site.service(subscription=TOPICS.subscription), Counts()
    made = plant(2, 3)
    faults = Faults(drop=0.1, duplicate=0.1, delay=0.1)
    outgoing = disturb(messages(made.blocks(10.0), TOPICS), faults, np.random.default_rng(3), counts)
    with MqttPublisher(settings(site.broker, "sim")).connect() as publisher:
        for _ in to_broker(outgoing, publisher, made.start_ns, speed=0.0):
            pass
        publisher.drain()
    assert counts.sent == 80
    assert counts.drop > 0
    assert counts.duplicate > 0
    received = [
        decode(m.payload, StreamKey("pump-01", "de"), max_payload_bytes=2**21) for m in take(service, counts.arrived)
    ]
    distinct = {block.samples.tobytes() for block in received}
    assert len(distinct) == 80 - counts.drop
