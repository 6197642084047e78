"""Topic templates such as `plant/{area}/{machine}/{point}/vibration`: from a topic to its stream, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.core.records import ID_PATTERN, StreamKey, is_id
from pipeline.errors import ConfigError

_PLACES = ("area", "machine", "point")
_MOST_PARSED = 16_384  # topics that are remembered: a stream says the same one in every message


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """A topic with the placeholders `{machine}`, `{point}` and, optionally, `{area}`. Each fills a whole level.

    Other levels may be empty, as in `/plant/{machine}/{point}` or `plant//{machine}/{point}/`: MQTT counts them.

    Raises:
        ConfigError: the template is no valid subscription or does not identify a stream.
    """

    template: str
    subscription: str = field(init=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _parsed: dict[str, StreamKey] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the template."""
        if self.template.startswith("$share/"):
            msg = f"mqtt.readings_topic: expected a topic, found a shared subscription: {self.template}"
            hint = (
                "a broker hands a stream's messages to several clients in turns, and 40 % come out of order: use fixed "
            )
            raise ConfigError(msg, hint=hint + "shards, `thrumcast land --shards 0-15/64`")
        levels = self.template.split("/")
        places = [level[1:-1] for level in levels if level.startswith("{") and level.endswith("}")]
        fixed = "".join(level for level in levels if level not in {f"{{{place}}}" for place in places})
        if sorted(places) not in (["area", "machine", "point"], ["machine", "point"]) or re.search(r"[{}+#\0]", fixed):
            msg = f"mqtt.readings_topic: expected whole levels {{machine}} and {{point}}, found: {self.template}"
            raise ConfigError(msg, hint="for instance plant/{area}/{machine}/{point}/vibration")
        object.__setattr__(self, "subscription", "/".join("+" if level[:1] == "{" else level for level in levels))
        one_id = ID_PATTERN.pattern
        parts = (f"(?P<{level[1:-1]}>{one_id})" if level[:1] == "{" else re.escape(level) for level in levels)
        object.__setattr__(self, "_pattern", re.compile("/".join(parts)))

    def parse(self, topic: str) -> StreamKey | None:
        """The stream of a topic; None if the topic does not match or contains text that is not an id."""
        if (known := self._parsed.get(topic)) is not None:
            return known
        match = self._pattern.fullmatch(topic)
        if match is None or not all(is_id(text) for text in match.groups()):
            return None
        if len(self._parsed) >= _MOST_PARSED:
            self._parsed.clear()
        key = self._parsed[topic] = StreamKey(match["machine"], match["point"])
        return key

    def format(self, *, machine: str, point: str, area: str = "main") -> str:
        """The topic of a stream; the area is ignored if the template has none.

        Raises:
            ValueError: for a text that is not an id.
        """
        topic = self.template
        for place, text in zip(_PLACES, (area, machine, point), strict=True):
            if not is_id(text):
                msg = f"expected an id of [A-Za-z0-9_.-]{{1,64}} as {place}, found: {text[:80]!r}"
                raise ValueError(msg)
            topic = topic.replace(f"{{{place}}}", text)
        return topic
