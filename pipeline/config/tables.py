"""Tables: what config.toml can say, as frozen structs with their defaults and ranges.

Every default is here and nowhere else. The config.toml of the repository repeats them for people to read, and a test
compares the two. `pipeline.config.sources.load` reads flags, environment and file into a `Config`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipeline.core.bearings import ORDERS, complete, find, orders_from_geometry
from pipeline.core.records import BearingOrders
from pipeline.core.severity import Limits, Support, limits_of_class
from pipeline.errors import ConfigError

Positive = Annotated[float, Meta(gt=0)]
WindowSeconds = Annotated[float, Meta(gt=0, le=86_400)]
SpeedRpm = Annotated[float, Meta(gt=0, le=1e6)]
SpeedSource = Literal["measured", "tachometer", "nominal", "nameplate", "estimated"]
LEAST_KEY_BYTES = 32  # of the key with which models are signed
Unit = Literal["g", "m/s2", "mm/s", "V", "1"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of config.toml."""


class WindowConfig(Table, frozen=True):
    """[window]: how streams are cut."""

    length_s: WindowSeconds = 1.0
    hop_s: WindowSeconds = 0.5


class BearingConfig(Table, frozen=True):
    """A rolling bearing: its defect orders, two of which give the others, or the geometry they follow from."""

    ftf: Positive | None = None
    bpfo: Positive | None = None
    bpfi: Positive | None = None
    bsf: Positive | None = None
    elements: Annotated[int, Meta(ge=3)] | None = None
    element_diameter_mm: Positive | None = None
    pitch_diameter_mm: Positive | None = None
    contact_angle_deg: Annotated[float, Meta(ge=0, lt=90)] | None = None

    def orders(self) -> BearingOrders | None:
        """Defect orders, multiples of the shaft speed; None if no value is given.

        Raises:
            ConfigError: the values do not determine a bearing.
        """
        known = {name: value for name in ORDERS if (value := getattr(self, name)) is not None}
        if known:
            found = complete(known, self.elements)
            if found.contradictions:
                msg = f"expected orders of one bearing, found: {found.contradictions[0]}"
                raise ConfigError(msg, hint="leave away what is less certain; two of the values give the others")
            return found.orders
        if not (self.elements and self.element_diameter_mm and self.pitch_diameter_mm):
            return None
        ratio = self.element_diameter_mm / self.pitch_diameter_mm
        return orders_from_geometry(self.elements, ratio, self.contact_angle_deg or 0.0)


class WindowOverride(Table, frozen=True):
    """The window of a machine or point; a missing value comes from [window]."""

    length_s: WindowSeconds | None = None
    hop_s: WindowSeconds | None = None


class PointTable(Table, frozen=True):
    """[machines.ID.points.POINT]: what differs at one point."""

    area: str = ""
    kind: str = ""  # of `pipeline.core.faults.KINDS`
    speed_rpm: SpeedRpm | None = None
    speed_source: SpeedSource | None = None  # how far the speed can be off, see `pipeline.core.speed`
    unit: Unit | None = None
    bearing: BearingConfig | str | None = None  # a name is looked up in the catalogue
    window: WindowOverride | None = None
    iso_group: Literal[1, 2] | None = None
    support: Support | None = None
    limits_mm_s: tuple[Positive, Positive, Positive] | None = None  # velocity RMS of the zone boundaries A/B, B/C, C/D
    limits_source: str = ""
    gear_teeth: tuple[Annotated[int, Meta(ge=2)], ...] = ()  # of the gears on this shaft
    speed_min_rpm: SpeedRpm | None = None  # an unknown speed is estimated between these two
    speed_max_rpm: SpeedRpm | None = None
    commissioning_windows: Annotated[int, Meta(ge=0)] = 0  # healthy windows at the start that make the baseline

    def limits(self) -> Limits | None:
        """Zone limits: limits_mm_s, else those of the machine class, else None."""
        if self.limits_mm_s is not None:
            return Limits(*self.limits_mm_s, self.limits_source)
        if self.iso_group is not None and self.support is not None:
            return limits_of_class(self.iso_group, self.support)
        return None


class MachineTable(PointTable, frozen=True):
    """[machines.ID]: what is known of a machine, the same at all its points unless one of them says otherwise."""

    points: dict[str, PointTable] = msgspec.field(default_factory=dict)


class MachineConfig(Table, frozen=True):
    """The values at one point: its own table wins over the machine's, that over the general sections."""

    area: str
    kind: str
    speed_rpm: float | None
    speed_source: SpeedSource | None
    unit: Unit | None
    bearing: BearingConfig | str | None
    limits: Limits | None
    gear_teeth: tuple[int, ...]
    speed_min_rpm: float | None
    speed_max_rpm: float | None
    commissioning_windows: int
    window: WindowConfig

    def orders(self) -> BearingOrders | None:
        """Defect orders of its bearing; None where it has none."""
        if isinstance(self.bearing, str):
            return find(self.bearing).geometry.orders()
        return None if self.bearing is None else self.bearing.orders()


NotNegative = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Name = Annotated[str, Meta(min_length=1)]
TrainingMemory = Annotated[int, Meta(ge=256, le=1_048_576)]


class MqttConfig(Table, frozen=True):
    """[mqtt]: the broker, the topics and the session."""

    host: Name = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: str = ""
    tls: bool = False
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    transport: Literal["tcp", "websockets"] = "tcp"
    websocket_path: str = "/mqtt"
    client_id: Name = "thrumcast"
    readings_topic: str = "plant/{area}/{machine}/{point}/vibration"
    results_topic: str = "thrumcast"
    receive_maximum: Annotated[int, Meta(ge=1, le=65535)] = 2000
    max_payload_bytes: Annotated[int, Meta(ge=1024, le=268_435_455)] = 2_097_152  # MQTT carries no more than 256 MiB
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 30
    session_expiry_s: Annotated[int, Meta(ge=0, le=4_294_967_295)] = 604_800
    accept_unknown_machines: bool = True
    commands: bool = False

    def password_path(self) -> Path | None:
        """The file of the password: password_file, else the service manager's credential `mqtt_password`, else None."""
        if self.password_file:
            return Path(self.password_file).expanduser()
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")  # systemd: LoadCredential=mqtt_password:...
        path = Path(credentials, "mqtt_password") if credentials else None
        return path if path is not None and path.is_file() else None

    def password(self) -> str | None:
        """The password, or None if none is configured. Never print or log it.

        Raises:
            ConfigError: the file cannot be read.
        """
        path = self.password_path()
        if path is None:
            return None
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            msg = f"mqtt.password_file: expected a readable file with the password, found: {path} ({reason})"
            raise ConfigError(msg, hint="the file holds the password alone, on one line") from error


class DataConfig(Table, frozen=True):
    """[data]: the data directory."""

    dir: Name = "./thrumcast-data"

    @property
    def path(self) -> Path:
        """`dir` with ~ expanded."""
        return Path(self.dir).expanduser()


class OrderConfig(Table, frozen=True):
    """[order]: how long to wait for missing blocks."""

    max_wait_s: NotNegative = 2.0
    max_time_step_s: Positive = 0.5
    rate_tolerance: NotNegative = 0.005


class FeaturesConfig(Table, frozen=True):
    """[features]: settings of the features."""

    bandwidth_hz: NotNegative = 5000.0
    envelope_low_hz: Positive = 1000.0
    envelope_high_hz: Positive = 5000.0
    slip_tolerance: Annotated[float, Meta(ge=0, lt=0.5)] = 0.02
    mains_hz: Annotated[float, Meta(ge=10, le=400)] = 50.0
    envelope_band: Literal["fixed", "kurtogram"] = "fixed"
    speed_confidence: Probability = 0.2


class RunConfig(Table, frozen=True):
    """[run]: the processes of the service."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 1


class CommitConfig(Table, frozen=True):
    """[commit]: the rhythm of the service."""

    interval_s: Positive = 1.0


class ArchiveConfig(Table, frozen=True):
    """[archive]: when pending rows become a Parquet file."""

    roll_s: Positive = 300.0
    roll_rows: Count = 10_000
    compact_parts: Annotated[int, Meta(ge=0)] = 24
    max_channels: Count = 64
    max_dates: Annotated[int, Meta(ge=0)] = 400


class StreamsConfig(Table, frozen=True):
    """[streams]: how many there may be, and how long they are kept. 0: no limit."""

    max_machines: Annotated[int, Meta(ge=0)] = 50_000
    max_per_machine: Annotated[int, Meta(ge=0)] = 500
    max_new_per_hour: Annotated[int, Meta(ge=0)] = 20_000
    max_channels_per_machine: Annotated[int, Meta(ge=0)] = 48
    rest_s: Annotated[float, Meta(ge=0)] = 3600.0
    forget_days: Annotated[float, Meta(ge=0)] = 0.0


class ModelConfig(Table, frozen=True):
    """[model]: which model serves, and its memory."""

    alias: Name = "champion"
    max_gap_s: Positive = 30.0
    warm_up_windows: Annotated[int, Meta(ge=0)] = 5
    shadow: str = ""
    replay_windows: Annotated[int, Meta(ge=0)] = 120
    forecast_modes: Annotated[int, Meta(ge=0, le=32)] = 0
    forecast_every_windows: Count = 10
    signature_key_file: str = ""

    def signature_key(self) -> bytes | None:
        """The key with which versions must be signed; None if none is configured. Never print or log it.

        Raises:
            ConfigError: the file cannot be read, or is too short for a secret.
        """
        if not self.signature_key_file:
            return None
        path, hint = Path(self.signature_key_file).expanduser(), "make one: openssl rand -hex 32"
        try:
            key = path.read_bytes().strip()
        except OSError as error:
            msg = f"model.signature_key_file: expected a readable file with the key, found: {path} ({error.strerror})"
            raise ConfigError(msg, hint=hint) from error
        if len(key) < LEAST_KEY_BYTES:
            msg = f"model.signature_key_file: expected {LEAST_KEY_BYTES} bytes or more, found {len(key)} in {path}"
            raise ConfigError(msg, hint=hint)
        return key


class AlarmConfig(Table, frozen=True):
    """[alarm]: when a run of predictions becomes an alarm; seconds are event time."""

    enter_p: Probability = 0.8
    leave_p: Probability = 0.5
    enter_s: NotNegative = 3.0
    leave_s: NotNegative = 15.0
    cooldown_s: NotNegative = 0.0
    merge_s: NotNegative = 60.0
    rename_s: NotNegative = 120.0
    false_alarms_per_machine_year: NotNegative = 1.0


class LogConfig(Table, frozen=True):
    """[log]: what is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class WebConfig(Table, frozen=True):
    """[web]: the live page, health and metrics."""

    bind: str = "127.0.0.1:8080"
    enabled: bool = True
    hosts: tuple[str, ...] = ()
    token_file: str = ""
    read_token_file: str = ""
    training_memory_mib: TrainingMemory = 2048


class HomeAssistantConfig(Table, frozen=True):
    """[homeassistant]: machines as devices of Home Assistant."""

    enabled: bool = False
    prefix: Name = "homeassistant"


class OpcuaConfig(Table, frozen=True):
    """[opcua]: the server of `thrumcast opcua`."""

    bind: str = "127.0.0.1:4840"
    certificate_file: str = ""
    key_file: str = ""
    username: str = ""
    password_file: str = ""


class NotifyConfig(Table, frozen=True):
    """[notify]: alarms by webhook and e-mail."""

    webhook_url: str = ""
    webhook_token_file: str = ""
    mail_to: tuple[Name, ...] = ()
    mail_from: str = ""
    smtp_host: str = ""
    smtp_port: Port = 587
    smtp_starttls: bool = True
    smtp_username: str = ""
    smtp_password_file: str = ""


class ModesConfig(Table, frozen=True):
    """[modes]: the failure modes. Ids never change meaning."""

    names: tuple[str, ...] = (
        "healthy", "unbalance", "misalignment", "looseness", "bearing_inner", "bearing_outer", "bearing_ball",
        "bearing_cage", "gear_wear", "gear_tooth", "cavitation", "other",
    )  # fmt: skip
    aliases: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "normal": "healthy",
            "ball": "bearing_ball",
            "inner_race": "bearing_inner",
            "outer_race": "bearing_outer",
            "cage": "bearing_cage",
            "broken_tooth": "gear_tooth",
            "imbalance": "unbalance",
        }
    )

    def resolve(self, name: str) -> str:
        """The id that `name` stands for; a name that is no alias comes back unchanged."""
        return self.aliases.get(name, name)


class PayloadTable(Table, frozen=True):
    """[[payloads]]: how messages of another sender are read.

    A text that begins with `$` is a path into the message, `@8:<u8` a number in a raw one. Any other text stands for
    itself, with the {placeholders} of the topic filled in.
    """

    topic: Name
    format: Literal["json", "msgpack", "csv", "line", "raw", "sparkplug"] = "json"
    samples: dict[str, str] = msgspec.field(default_factory=dict)  # channel = path of its samples
    packed: str = ""  # path of samples as base64 text or bytes, of all channels
    channels: tuple[str, ...] = ()  # of packed and raw samples
    dtype: Literal["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">u2", ">i4", ">u4", ">f4", ">f8"] = "i2"
    layout: Literal["interleaved", "planar"] = "interleaved"  # xyzxyz or xxyyzz
    skip_bytes: Annotated[int, Meta(ge=0)] = 0  # before the samples
    time: str = ""  # path, or "arrival"
    time_unit: Literal["auto", "s", "ms", "us", "ns", "iso"] = "auto"
    time_of: Literal["first", "last"] = "first"  # sample
    rate_hz: Positive | str | None = None  # None: from the times of the samples
    unit: str = ""
    scale: float | str = 1.0  # value = number x scale
    speed_rpm: NotNegative | str | None = None
    machine: str = "{machine}"
    point: str = "{point}"
    session: str = ""  # path; empty: from time
    index: str = ""  # path of the number of the first sample; empty: from time
    index_counts: Literal["samples", "messages"] = "samples"
    measurement: str = ""  # of line protocol; empty: all
    separator: str = ""  # of CSV; empty: the one that its first line has


class Config(Table, frozen=True):
    """All of config.toml."""

    mqtt: MqttConfig = MqttConfig()
    data: DataConfig = DataConfig()
    window: WindowConfig = WindowConfig()
    order: OrderConfig = OrderConfig()
    features: FeaturesConfig = FeaturesConfig()
    run: RunConfig = RunConfig()
    commit: CommitConfig = CommitConfig()
    archive: ArchiveConfig = ArchiveConfig()
    streams: StreamsConfig = StreamsConfig()
    model: ModelConfig = ModelConfig()
    alarm: AlarmConfig = AlarmConfig()
    web: WebConfig = WebConfig()
    log: LogConfig = LogConfig()
    homeassistant: HomeAssistantConfig = HomeAssistantConfig()
    opcua: OpcuaConfig = OpcuaConfig()
    notify: NotifyConfig = NotifyConfig()
    modes: ModesConfig = msgspec.field(default_factory=ModesConfig)
    machines: dict[str, MachineTable] = msgspec.field(default_factory=dict)
    payloads: tuple[PayloadTable, ...] = ()

    def accepts(self, machine: str) -> bool:
        """Whether readings of this machine are wanted."""
        return self.mqtt.accept_unknown_machines or machine in self.machines

    def machine(self, machine: str, point: str) -> MachineConfig:
        """What holds at `point` of `machine`; a machine that no table names gets the general values."""
        table = self.machines.get(machine, MachineTable())
        own = table.points.get(point, PointTable())
        length_s, hop_s = self.window.length_s, self.window.hop_s
        for override in (table.window, own.window):
            if override is not None:
                length_s, hop_s = override.length_s or length_s, override.hop_s or hop_s
        return MachineConfig(
            area=own.area or table.area,
            kind=own.kind or table.kind,
            speed_rpm=own.speed_rpm or table.speed_rpm,
            speed_source=own.speed_source or table.speed_source,
            unit=own.unit or table.unit,
            bearing=own.bearing or table.bearing,
            limits=own.limits() or table.limits(),
            gear_teeth=own.gear_teeth or table.gear_teeth,
            speed_min_rpm=own.speed_min_rpm or table.speed_min_rpm,
            speed_max_rpm=own.speed_max_rpm or table.speed_max_rpm,
            commissioning_windows=own.commissioning_windows or table.commissioning_windows,
            window=WindowConfig(length_s=length_s, hop_s=hop_s),
        )
