"""Documents: the bytes of a message as maps, lists, texts and numbers, by format.

    json, msgpack    as they are
    csv              {"columns": [[...], ...]}, and each column under its name if there is a header
    line             one document per measurement and set of tags: {"measurement", "tags", "fields", "time"}

`raw` has no document: the bytes themselves are the samples. `sparkplug` has a module of its own.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, Final

import msgspec

from pipeline.core.patterns import within
from pipeline.errors import DecodeError

DEEPEST: Final = 32  # levels of maps and lists
MOST_GROUPS: Final = 64  # documents of one message of line protocol
MOST_COLUMNS: Final = 256

_JSON = msgspec.json.Decoder()
_MSGPACK = msgspec.msgpack.Decoder()


def parse(kind: str, payload: bytes, *, separator: str = "", measurement: str = "") -> list[Any]:
    """The documents of a message; none where no line has the measurement that is asked for.

    Raises:
        DecodeError: `malformed`, with what was expected and found.
    """
    if kind == "raw":
        return [payload]
    if kind == "json":
        return [_checked(_json(payload))]
    if kind == "msgpack":
        return [_checked(_msgpack(payload))]
    text = _text(payload, kind)
    return [_csv(text, separator)] if kind == "csv" else _lines(text, measurement)


def _json(payload: bytes) -> Any:
    try:
        return _JSON.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if b"NaN" not in payload and b"Infinity" not in payload:
            msg = f"a JSON document expected, found: {_found(payload)} ({str(error)[:120]})"
            raise DecodeError("malformed", msg) from None
    try:
        return json.loads(payload)  # takes the NaN that Python and C++ write, which JSON does not have
    except (ValueError, RecursionError) as error:
        msg = f"a JSON document expected, found: {_found(payload)} ({str(error)[:120]})"
        raise DecodeError("malformed", msg) from None


def _msgpack(payload: bytes) -> Any:
    try:
        return _MSGPACK.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError, TypeError) as error:
        msg = f"a MessagePack document expected, found: {_found(payload)} ({str(error)[:120]})"
        raise DecodeError("malformed", msg) from None


def _checked(document: Any) -> Any:
    if not within(document, DEEPEST):
        msg = f"a document of at most {DEEPEST} levels expected, found a deeper one"
        raise DecodeError("malformed", msg)
    return document


def _text(payload: bytes, kind: str) -> str:
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = f"UTF-8 text of format {kind} expected, found: {_found(payload)}"
        raise DecodeError("malformed", msg) from None
    if not text.strip():
        msg = f"text of format {kind} expected, found an empty message"
        raise DecodeError("malformed", msg)
    return text


def _found(payload: bytes) -> str:
    return repr(payload[:40])[1:] if payload else "an empty message"


# -- CSV -------------------------------------------------------------------------------------------------------------


def _csv(text: str, separator: str) -> dict[str, Any]:
    first = text.lstrip().partition("\n")[0]
    separator = separator or next((sign for sign in ";\t," if sign in first), " ")
    try:
        table = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
        rows = [row for row in table if any(cell.strip() for cell in row)]
    except csv.Error as error:
        msg = f"CSV with the separator {separator!r} expected, found: {str(error)[:80]}"
        raise DecodeError("malformed", msg) from None
    if separator == " ":
        rows = [[cell for cell in row if cell] for row in rows]
    names: list[str] = []
    if all(not _is_number(cell) for cell in rows[0]) and len(rows) > 1:
        names, rows = [cell.strip() for cell in rows[0]], rows[1:]
    width = len(names or rows[0])
    if width > MOST_COLUMNS:
        msg = f"at most {MOST_COLUMNS} columns expected, found: {width}"
        raise DecodeError("malformed", msg)
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            msg = f"{width} columns in each row expected, found {len(row)} in row {number}"
            raise DecodeError("malformed", msg)
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {"columns": columns, **{name: column for name, column in zip(names, columns, strict=False) if name}}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# -- InfluxDB line protocol ------------------------------------------------------------------------------------------

# measurement[,tag=value...] field=value[,field=value...] [time]; a backslash escapes comma, space and equals sign.
_WORD = r"(?:\\.|[^\\,\s=])+"
_LINE = re.compile(
    rf"(?P<measurement>(?:\\.|[^\\,\s])+)(?P<tags>(?:,{_WORD}={_WORD})*) +"
    rf'(?P<fields>{_WORD}=(?:"(?:\\.|[^"\\])*"|[^\s,"]+)(?:,{_WORD}=(?:"(?:\\.|[^"\\])*"|[^\s,"]+))*)'
    r"(?: +(?P<time>-?\d{1,19}))?\s*"
)
_PAIR = re.compile(rf',?({_WORD})=("(?:\\.|[^"\\])*"|(?:\\.|[^\\,\s"])+)')
_ESCAPED = re.compile(r"\\([,= \"\\])")


def _lines(text: str, measurement: str) -> list[Any]:
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    others = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            expected = "line protocol `measurement,tag=value field=value time`"
            msg = f"{expected} expected in line {number}, found: {line[:60]!r}"
            raise DecodeError("malformed", msg)
        name = _ESCAPED.sub(r"\1", match["measurement"])
        if measurement and name != measurement:
            others += 1
            continue
        group = groups.setdefault((name, match["tags"]), {"measurement": name, "tags": {}, "fields": {}, "time": []})
        if len(groups) > MOST_GROUPS:
            msg = f"at most {MOST_GROUPS} measurements and sets of tags in one message expected, found more"
            raise DecodeError("malformed", msg)
        group["tags"] = {_ESCAPED.sub(r"\1", k): _ESCAPED.sub(r"\1", v) for k, v in _PAIR.findall(match["tags"])}
        for key, value in _PAIR.findall(match["fields"]):
            group["fields"].setdefault(_ESCAPED.sub(r"\1", key), []).append(_field(value))
        if match["time"]:
            group["time"].append(int(match["time"]))
    if not groups and not others:
        msg = "a line of line protocol expected, found only comments"
        raise DecodeError("malformed", msg)
    return list(groups.values())


def _field(value: str) -> Any:
    if value.startswith('"'):
        return _ESCAPED.sub(r"\1", value[1:-1])
    if value in ("t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"):
        return value[0] in "tT"
    return value.rstrip("iu")
