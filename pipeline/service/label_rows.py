"""Labels to and from flags, CSV, JSON and Parquet, and the remarks that `thrumcast labels` makes about them."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.core.faults import HEALTHY
from pipeline.edges.labels import CERTAINTY, LabelEvent, new_id, now_iso, to_ns, who
from pipeline.edges.machines import MACHINES_NAME, MachinesFile
from pipeline.errors import ThrumcastError
from pipeline.telemetry import few

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config.tables import Config

FIELDS = tuple(field.name for field in dataclasses.fields(LabelEvent))
REQUIRED = ("machine", "start", "end")
# What other systems call these columns.
SYNONYMS = {
    "asset": "machine",
    "from": "start",
    "to": "end",
    "fault": "mode",
    "comment": "note",
    "workorder": "work_order",
}


def new_label(config: Config, given: Mapping[str, Any]) -> LabelEvent:
    """A label from values by field name. An empty value means the default; the mode may be an alias of [modes].

    Raises:
        ThrumcastError: a value is invalid.
    """
    values = {name: value for name, value in given.items() if value not in (None, "")}
    mode = values.get("mode")
    if mode is not None:
        mode = config.modes.resolve(str(mode))
        if mode not in config.modes.names:
            msg = f"label: expected a mode of [modes], found: {mode}"
            raise ThrumcastError(msg, hint=f"the modes are {', '.join(config.modes.names)}")
    elif values.get("verdict") == "false_alarm":
        mode = HEALTHY
    for name in ("start", "end"):
        to_ns(str(values.get(name, "")))
    label_id = new_id()
    fixed: dict[str, Any] = {
        "id": label_id,
        "client_token": str(values.get("client_token", label_id)),
        "op": "add",
        "mode": mode,
    }
    fixed |= {"certainty": _certainty(values.get("certainty", 1.0)), "created": str(values.get("created", now_iso()))}
    rest = {name: str(values[name]) for name in FIELDS if name in values and name not in fixed and name != "p_at"}
    return LabelEvent(**{**rest, **fixed, "author": who(values.get("author"))})


def read_labels(config: Config, path: Path, author: str | None) -> list[LabelEvent]:
    """The labels of a CSV or JSON file, by its ending.

    Raises:
        ThrumcastError: the file is not readable, or `labels_of` refuses it.
    """
    kind = "json" if path.suffix.lower() == ".json" else "csv"
    return labels_of(config, _text(path), kind, str(path), author)


def labels_of(config: Config, text: str, kind: str, where: str, author: str | None) -> list[LabelEvent]:
    """The labels of a text in CSV or JSON, all or none.

    A row without a token gets a hash of its content as its token, so what is read twice is stored once.

    Args:
        config: For the modes.
        text: The content.
        kind: csv or json.
        where: What errors call it.
        author: Of the rows that name none; None: the user.

    Raises:
        ThrumcastError: it is no such text, lacks a column, or has an invalid row; the message names the row.
    """
    labels = []
    for place, values in (_json_rows if kind == "json" else _csv_rows)(text, where):
        digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:16]
        values.setdefault("client_token", f"{kind}-{digest}")
        values.setdefault("author", who(author))
        try:
            labels.append(new_label(config, values))
        except ThrumcastError as error:
            msg = f"{where}, {place}: {error.message}"
            raise ThrumcastError(msg, hint=error.hint) from error
    return labels


def _csv_rows(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        names = {name: SYNONYMS.get(name.strip().lower(), name.strip().lower()) for name in reader.fieldnames or ()}
        rows = list(enumerate(reader, 2))
    except csv.Error as error:
        msg = f"{where}: expected a CSV file, found near line {reader.line_num}: {error}"
        raise ThrumcastError(msg, hint="save it as CSV, separated by commas") from error
    missing = [name for name in REQUIRED if name not in names.values()]
    if missing:
        msg = f"{where}: expected the columns {', '.join(REQUIRED)}, found no {', '.join(missing)}"
        hint = "the first line names the columns; `thrumcast labels export` writes such a file"
        if len(names) == 1 and any(mark in next(iter(names)) for mark in ";\t"):
            hint = "separate the columns by commas; this file seems to use another separator"
        raise ThrumcastError(msg, hint=hint)
    for number, row in rows:
        yield f"line {number}", {names[name]: value for name, value in row.items() if name in names and value}


def _json_rows(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    hint = "a list of objects as `thrumcast labels export FILE.json` writes it"
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        msg = f"{where}: expected JSON, found: {error}"
        raise ThrumcastError(msg, hint=hint) from error
    rows = found.get("labels") if isinstance(found, dict) else found  # `labels ls --json` prints an object
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{where}: expected a list of labels, found something else"
        raise ThrumcastError(msg, hint=hint)
    for number, row in enumerate(rows, 1):
        named = {SYNONYMS.get(str(name).lower(), str(name).lower()): value for name, value in row.items()}
        yield f"label {number}", {name: value for name, value in named.items() if value not in (None, "")}


def _text(path: Path) -> str:
    """The content of a UTF-8 text file. Spreadsheets may put a byte order mark at its beginning."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        msg = f"{path}: expected UTF-8, found in line {line} the byte 0x{error.object[error.start]:02x}"
        raise ThrumcastError(msg, hint="save it as 'CSV UTF-8'") from error
    except OSError as error:
        msg = f"expected to read {path}, found: {error.strerror}"
        raise ThrumcastError(msg) from error


def text_of(labels: Sequence[LabelEvent], kind: str) -> str:
    """Labels as CSV or JSON with all fields, as `labels_of` reads them."""
    if kind == "json":
        return msgspec.json.format(msgspec.json.encode(labels), indent=1).decode() + "\n"
    file = StringIO(newline="")
    writer = csv.DictWriter(file, FIELDS)
    writer.writeheader()
    writer.writerows(asdict(label) for label in labels)
    return file.getvalue()


def retracted_label(events: Sequence[LabelEvent], label_id: str) -> LabelEvent:
    """The label with this id, which is retracted.

    Raises:
        ThrumcastError: there is none, or it still holds.
    """
    found = [event for event in events if event.op == "add" and event.id == label_id]
    if not found or all(event.op != "retract" or event.id != label_id for event in events):
        msg = f"expected the id of a retracted label, found: {label_id}"
        raise ThrumcastError(msg, hint="see `thrumcast labels ls --all`")
    return found[0]


def restored(label: LabelEvent) -> LabelEvent:
    """A retracted label once more, as a new one: events are never changed. Restoring it twice gives one label."""
    return replace(label, id=new_id(), client_token=f"restore-{label.id}", created=now_iso())


def write_parquet(labels: Sequence[LabelEvent], path: Path) -> None:
    """Writes one row per label; start and end are UTC timestamps, as in the archive."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    time = pa.timestamp("us", tz="UTC")
    kinds = {"start": time, "end": time, "certainty": pa.float64(), "p_at": pa.float64()}
    columns: dict[str, Any] = {name: [getattr(label, name) for label in labels] for name in FIELDS}
    columns["start"] = [label.start_ns // 1000 for label in labels]
    columns["end"] = [label.end_ns // 1000 for label in labels]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])
    pq.write_table(pa.table(columns, schema=schema), path)


def coverage(data_dir: Path, labels: Sequence[LabelEvent]) -> dict[str, int]:
    """Label id -> number of archived windows that the label covers at least by half; 0 without an archive."""
    from models.data.labelling import apply_labels, report_of

    rows = _archived(data_dir, labels)
    if rows is None:
        return {label.id: 0 for label in labels}
    return {label.id: report_of(apply_labels(rows, [label]))["used"].get(label.id, 0) for label in labels}


def out_of_archive(data_dir: Path, labels: Sequence[LabelEvent]) -> dict[str, str]:
    """Label id -> the time span of the archived windows of its machine and point; for labels that cover no window."""
    rows = _archived(data_dir, labels)
    if rows is None:
        return {}
    spans = rows.group_by(["machine", "point"]).aggregate([("start", "min"), ("end", "max")]).to_pylist()
    spans.sort(key=lambda span: (span["machine"], span["point"]))
    found = {}
    for label in labels:
        there = [
            f"{span['machine']}/{span['point']} {_utc(span['start_min'])} to {_utc(span['end_max'])}"
            for span in spans
            if span["machine"] == label.machine and label.point in (None, span["point"])
        ]
        if there:
            found[label.id] = ", ".join(there)
    return found


def _archived(data_dir: Path, labels: Sequence[LabelEvent]) -> pa.Table | None:
    """The archived windows of the labelled machines; None without an archive, as labels may come first."""
    from pipeline.edges.store.read import read_features
    from pipeline.errors import ArchiveError

    columns = ("machine", "point", "start", "end", "truth")
    try:
        return (
            read_features(data_dir, columns=columns, machines={label.machine for label in labels}) if labels else None
        )
    except ArchiveError:
        return None


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def never_seen(config: Config, labels: Sequence[LabelEvent]) -> dict[str, str]:
    """Machine (or machine/point) without any archived window -> the warning for a label of it."""
    points: dict[str, set[str]] = {name: set() for name in config.machines}
    for key in MachinesFile(config.data.path / MACHINES_NAME).load():
        points.setdefault(key.machine, set()).add(key.point)
    found = {}
    for label in labels:
        if label.machine not in points:
            found[label.machine] = _waits(label.machine, instead(label.machine, points))
        elif label.point and points[label.machine] and label.point not in points[label.machine]:
            name = f"{label.machine}/{label.point}"
            found[name] = _waits(name, instead(label.point, points[label.machine]))
    return found


def _waits(name: str, near: str) -> str:
    return f"{name} has no archived windows; the label is kept and applies as soon as there are some; {near}"


def instead(name: str, known: Collection[str]) -> str:
    """Names that may have been meant by an unknown one."""
    near = difflib.get_close_matches(name, sorted(known), n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {few(sorted(known), 8) or 'none'}"


def not_in_model(config: Config, labels: Sequence[LabelEvent]) -> list[str]:
    """Ids of the labels that the newest model version has neither used nor ignored."""
    from models.registry import Registry
    from pipeline.errors import ModelError

    registry = Registry(config.data.path)
    versions = registry.versions()
    try:
        known = registry.load(versions[-1]).data.get("labels") or {} if versions else {}
    except ModelError:  # `models ls` says what is wrong with it
        known = {}
    seen = {*known.get("used", ()), *known.get("ignored", ())}
    return [label.id for label in labels if label.id not in seen]


def told(event: LabelEvent) -> str:
    """One line for the terminal."""
    if event.op == "retract":
        return f"{event.id} retracted"
    place = event.machine if event.point is None else f"{event.machine}/{event.point}"
    return f"{event.id} {place} {event.verdict} {event.mode or '-'} {event.start} to {event.end}"


def _certainty(value: object) -> float:
    if isinstance(value, str) and value in CERTAINTY:
        return CERTAINTY[value]
    try:
        return float(str(value))
    except ValueError as error:
        msg = f"label: expected a certainty of {', '.join(CERTAINTY)}, or a number up to 1, found: {value}"
        raise ThrumcastError(msg) from error
