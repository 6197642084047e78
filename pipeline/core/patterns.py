"""Patterns: how a [[payloads]] table names topics, and places within a message.

    sensors/{machine}/+/accel      a topic: `{name}` is text to keep, `+` any level, `#` at the end all further levels
    $.data[*].x                    a path: keys, numbers, `[*]` all entries, `[0::3]` every third, `[?@.n=='x']` some

Paths are a part of JSONPath (RFC 9535). Both are pure, and their cost is bounded by the size of the message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

LONGEST_TOPIC: Final = 1024  # characters; longer ones match nothing
_PLACE: Final = re.compile(r"\{(\w+)\}")
_STEP: Final = re.compile(
    r"""\.(?P<name>[^\s.\[\]'"*?]+)
    |   \['(?P<quoted>[^']*)'\]
    |   \[(?P<index>-?\d{1,9})\]
    |   \[(?P<all>\*)\]
    |   \[(?P<first>-?\d{0,9}):(?P<last>-?\d{0,9})(?::(?P<step>\d{1,9}))?\]
    |   \[\?@\.(?P<key>[^\s.\[\]'"=]+)\s?==\s?'(?P<equal>[^']*)'\]""",
    re.VERBOSE,
)


class NotFoundError(ValueError):
    """A path leads nowhere in a document. The text says where it ends."""


@dataclass(frozen=True, slots=True)
class TopicPattern:
    """A topic with placeholders and wildcards. Empty levels are levels like others, as MQTT has it.

    Raises:
        ValueError: the text is no such pattern; the message says what was expected.
    """

    text: str
    subscription: str = field(init=False)
    places: tuple[str, ...] = field(init=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the text."""
        levels = self.text.split("/")
        if not self.text or self.text.startswith("$") or "\0" in self.text or len(self.text) > LONGEST_TOPIC:
            msg = f"a topic of 1 to {LONGEST_TOPIC} characters that does not begin with $"
            raise ValueError(msg)
        places: list[str] = []
        wild, regex = [], []
        for at, level in enumerate(levels):
            if level == "#" and at == len(levels) - 1 and at > 0:
                wild.append("#")
                continue
            subscribed, pattern, names = _level(level)
            wild.append(subscribed)
            regex.append(pattern)
            places += names
        if len(set(places)) != len(places):
            msg = "placeholders that differ"
            raise ValueError(msg)
        tail = r"(?:/.*)?" if levels[-1] == "#" else ""
        object.__setattr__(self, "subscription", "/".join(wild))
        object.__setattr__(self, "places", tuple(places))
        object.__setattr__(self, "_pattern", re.compile("/".join(regex) + tail, re.DOTALL))

    def match(self, topic: str) -> dict[str, str] | None:
        """The texts of the placeholders; None if the topic does not match."""
        found = self._pattern.fullmatch(topic) if len(topic) <= LONGEST_TOPIC else None
        return None if found is None else found.groupdict()


def _level(level: str) -> tuple[str, str, list[str]]:
    """How one level is subscribed, its regular expression, and its placeholders."""
    if level == "+":
        return "+", "[^/]*", []
    parts = _PLACE.split(level)  # text, name, text, name, ..., text
    fixed, names = parts[::2], parts[1::2]
    if any(re.search(r"[{}+#]", text) for text in fixed):
        msg = "`+` as a whole level, `#` as the last one, and placeholders such as {machine}"
        raise ValueError(msg)
    if len(names) > 2 or any(not text for text in fixed[1:-1]):
        msg = "at most two placeholders in one level, with text between them"  # a third would cost cubic time
        raise ValueError(msg)
    pattern = re.escape(fixed[0])
    for name, text in zip(names, fixed[1:], strict=True):
        pattern += f"(?P<{name}>[^/]+)" + re.escape(text)
    return ("+" if names else level), pattern, names


def overlap(one: str, other: str) -> bool:
    """Whether a topic exists that both subscriptions match."""
    left, right = one.split("/"), other.split("/")
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    longer = left if len(left) > len(right) else right
    return len(left) == len(right) or longer[min(len(left), len(right))] == "#"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a path; exactly one of the fields is set."""

    name: str | None = None
    index: int | None = None
    part: slice | None = None  # also `[*]`
    equal: tuple[str, str] | None = None  # key and text of the entries to choose


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value stands in a document of maps, lists, texts and numbers.

    Raises:
        ValueError: the text is no path.
    """

    text: str
    steps: tuple[Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Parses the text."""
        found = list(_STEP.finditer(self.text, 1))
        ends = [1, *(match.end() for match in found)]
        starts = [*(match.start() for match in found), len(self.text)]
        if not self.text.startswith("$") or ends != starts:
            msg = "a path such as $.data[*].x, $['a key'], $[0], $.data[0::3] or $.list[?@.name=='x'].value"
            raise ValueError(msg)
        object.__setattr__(self, "steps", tuple(map(_step, found)))

    @property
    def is_many(self) -> bool:
        """Whether the path names several values."""
        return any(step.part is not None or step.equal is not None for step in self.steps)

    def find(self, document: Any) -> Any:
        """The value; a list if the path names several. Lists that it names are joined.

        Raises:
            NotFoundError: there is none.
        """
        nodes = [document]
        where = "$"
        for step in self.steps:
            nodes = _walk(nodes, step, where)
            where += _shown(step)
        if not self.is_many:
            return nodes[0]
        if not nodes:
            msg = f"at least one value at {self.text}, found none"
            raise NotFoundError(msg)
        if all(isinstance(node, list) for node in nodes):
            return [value for node in nodes for value in node]
        return nodes


def _step(match: re.Match[str]) -> Step:
    parts = match.groupdict()
    if parts["all"]:
        return Step(part=slice(None))
    if parts["index"] is not None:
        return Step(index=int(parts["index"]))
    if parts["key"] is not None:
        return Step(equal=(parts["key"], parts["equal"]))
    if parts["first"] is not None:
        first, last, by = (int(parts[name]) if parts[name] else None for name in ("first", "last", "step"))
        if by == 0:
            msg = "a step of at least 1 in a slice"
            raise ValueError(msg)
        return Step(part=slice(first, last, by))
    return Step(name=parts["quoted"] if parts["name"] is None else parts["name"])


def _shown(step: Step) -> str:
    if step.name is not None:
        return f".{step.name}" if re.fullmatch(r"\w+", step.name) else f"['{step.name}']"
    if step.index is not None:
        return f"[{step.index}]"
    return "[*]" if step.equal is None else f"[?@.{step.equal[0]}=='{step.equal[1]}']"


def _walk(nodes: list[Any], step: Step, where: str) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        if step.name is not None:
            if not isinstance(node, dict) or step.name not in node:
                msg = f"the key {step.name!r} at {where}, found: {described(node)}"
                raise NotFoundError(msg)
            found.append(node[step.name])
            continue
        if not isinstance(node, list):
            msg = f"a list at {where}, found: {described(node)}"
            raise NotFoundError(msg)
        if step.index is not None:
            if not -len(node) <= step.index < len(node):
                msg = f"an entry {step.index} at {where}, found a list of {len(node)}"
                raise NotFoundError(msg)
            found.append(node[step.index])
        elif step.equal is not None:
            key, text = step.equal
            found += [entry for entry in node if isinstance(entry, dict) and entry.get(key) == text]
        else:
            found += node[step.part or slice(None)]
    return found


def described(node: Any) -> str:
    """A value in a few words, for an error. Text of strangers is cut and quoted."""
    if isinstance(node, dict):
        keys = ", ".join(repr(str(key)[:20]) for key in list(node)[:8])
        return f"a map with {keys}{', ...' if len(node) > 8 else ''}" if node else "an empty map"
    if isinstance(node, list):
        return f"a list of {len(node)}"
    if isinstance(node, str):
        return f"the text {node[:30]!r}"
    if isinstance(node, bytes):
        return f"{len(node)} bytes"
    return repr(node)[:30]


def within(document: Any, most_levels: int) -> bool:
    """Whether a document is at most so many levels deep."""
    level = [document]
    for _ in range(most_levels):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False
