"""Home Assistant: every machine as a device, by MQTT discovery.

One retained message per machine on `<prefix>/device/<id>/config` lists the entities of all its points: state, failure
mode, velocity RMS, zone, and a problem sensor. They read the retained `state` of the point. An entity is unavailable
while the service is (`availability`, from the status and its last will), and when a state is older than it may be
(`expire_after`): one without the other would show an old state as a present one.

Source: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from pipeline import __version__
from pipeline.core.engine import Step
from pipeline.core.records import StreamKey
from pipeline.drivers.results import STATE_EVERY_S
from pipeline.edges.ports import Batch, Onlooker, Publication, Work

STATES: Final = (
    "warming_up", "normal", "warning", "alarm", "unknown", "sensor_fault", "not_running", "stale",
)  # fmt: skip
ZONES: Final = ("A", "B", "C", "D")


def object_id(name: str) -> str:
    """An id that Home Assistant takes in a topic: letters, digits, _ and -. Ids that are changed stay apart."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def device(base: str, machine: str, points: Iterable[str], modes: Sequence[str]) -> dict[str, Any]:
    """The discovery document of a machine."""
    components: dict[str, Any] = {}
    for point in sorted(points):
        for name, entity in _entities(modes).items():
            unique_id = f"{object_id(base)}_{object_id(machine)}_{object_id(point)}_{name}"
            components[f"{object_id(point)}_{name}"] = {
                "unique_id": unique_id,
                "name": f"{point} {name.replace('_', ' ')}",
                "state_topic": f"{base}/machines/{machine}/{point}/state",
                "expire_after": int(2 * STATE_EVERY_S),
                "qos": 1,
                "availability": [
                    {
                        "topic": f"{base}/status",
                        "value_template": "{{ value_json.state }}",
                        "payload_available": "online",
                        "payload_not_available": "offline",
                    }
                ],
                **entity,
            }
            if name == "state":
                components[f"{object_id(point)}_{name}"]["json_attributes_topic"] = (
                    f"{base}/machines/{machine}/{point}/state"
                )
    return {
        "device": {"identifiers": [f"{object_id(base)}_{object_id(machine)}"], "name": machine, "model": "thrumcast"},
        "origin": {"name": "thrumcast", "sw_version": __version__},
        "components": components,
    }


def _entities(modes: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        "state": {
            "platform": "sensor",
            "device_class": "enum",
            "options": list(STATES),
            "value_template": "{{ value_json.state }}",
        },
        "mode": {
            "platform": "sensor",
            "device_class": "enum",
            "options": list(modes),
            "value_template": "{{ value_json.mode }}",
        },
        "velocity": {
            "platform": "sensor",
            "device_class": "speed",
            "state_class": "measurement",
            "unit_of_measurement": "mm/s",
            "suggested_display_precision": 2,
            "value_template": "{{ value_json.velocity_rms_mm_s }}",
        },
        "zone": {
            "platform": "sensor",
            "device_class": "enum",
            "options": list(ZONES),
            "value_template": "{{ value_json.zone }}",
        },
        "problem": {
            "platform": "binary_sensor",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.state == 'alarm' else 'OFF' }}",
        },
    }


@dataclass(slots=True)
class HomeAssistant(Onlooker):
    """Announces a machine when one of its points is first predicted; the broker keeps what was announced."""

    base: str
    prefix: str
    modes: tuple[str, ...]
    known: dict[str, set[str]] = field(default_factory=dict)  # machine -> points
    new: set[str] = field(default_factory=set)  # machines to announce

    def committed(self, batch: Batch, step: Step) -> Work | None:
        """Look for points that have not been seen."""
        for prediction in step.predictions:
            self._see(prediction.key)
        return None

    def before_turn(self) -> Work | None:
        """Announce the machines that have changed."""
        return self._announce if self.new else None

    def _see(self, key: StreamKey) -> None:
        points = self.known.setdefault(key.machine, set())
        if key.point not in points:
            points.add(key.point)
            self.new.add(key.machine)

    def _announce(self) -> Sequence[Publication]:
        machines, self.new = sorted(self.new), set()
        return [
            Publication(
                f"{self.prefix}/device/{object_id(self.base)}-{object_id(machine)}/config",
                msgspec.json.encode(device(self.base, machine, self.known[machine], self.modes)),
                retain=True,
            )
            for machine in machines
        ]
