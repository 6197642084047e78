"""Keys: which ones the configuration has, how a key is written, and which known key is nearest to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from pipeline.config.tables import Config, Table
from pipeline.core.records import is_id
from pipeline.errors import ConfigError

KeyPath = tuple[str, ...]  # ("window", "length_s")


def dotted(path: KeyPath) -> str:
    """The key as it is written in TOML. A part with a dot in it, such as a machine's id, is quoted."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path)


def check_id(path: KeyPath) -> None:
    """Refuse a path whose last part is not a valid machine or point id."""
    if not is_id(path[-1]):
        msg = f"{dotted(path)}: expected an id of 1 to 64 characters A-Z a-z 0-9 _ . -, found: {path[-1]!r}"
        raise ConfigError(msg, hint="ids are parts of topics")


def names_a_machine_or_point(path: KeyPath) -> bool:
    """Whether the last part of a path is an id that the user chose: machines.ID or machines.ID.points.ID."""
    return path[:1] == ("machines",) and (len(path) == 2 or (len(path) == 4 and path[2] == "points"))


def leaf_type(path: KeyPath) -> Any:
    """The annotated type of a key. The error for an unknown key names the nearest known one."""
    kind: Any = Config
    by_id = named = False
    for at, part in enumerate(path):
        if by_id:
            check_id(path[: at + 1])
            by_id = False
            continue
        types = fields(kind) if isinstance(kind, type) and issubclass(kind, Table) else {}
        if part not in types:
            raise unknown_key(path)
        inner, by_id = table_of(types[part])
        kind, named = inner or types[part], may_be_a_name(types[part])
    if named:
        return str
    if by_id or (isinstance(kind, type) and issubclass(kind, Table)):
        raise unknown_key(path)
    return kind


def fields(struct: type[Table]) -> dict[str, Any]:
    """Key -> annotated type of a table."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def table_of(kind: Any) -> tuple[type[Table] | None, bool]:
    """The struct behind a field's type, if any, and whether it is one of many by id (`dict[str, Struct]`)."""
    by_id = get_origin(kind) is dict
    if get_origin(kind) is tuple:  # an array of tables is one value, see `array_of`
        return None, False
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, Table):
            return part, by_id
    return None, False


def array_of(kind: Any) -> type[Table] | None:
    """The struct of an array of tables (`tuple[Struct, ...]`); None for any other type."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    return inner if isinstance(inner, type) and issubclass(inner, Table) else None


def may_be_a_name(kind: Any) -> bool:
    """Whether the value may be a name instead of a table (`Struct | str`)."""
    inner, by_id = table_of(kind)
    return str in get_args(kind) and inner is not None and not by_id  # dict[str, Struct] has a str too, its key


def known_keys(struct: type[Table] = Config, prefix: KeyPath = (), ids: KeyPath = ()) -> Iterator[KeyPath]:
    """All keys. Where the user chooses an id, the ids in `ids` are used in turn, then `ID`."""
    for name, kind in fields(struct).items():
        inner, by_id = table_of(kind)
        if array_of(kind) is not None:
            continue  # its tables have no names to write
        if inner is None:
            yield (*prefix, name)
        elif by_id:
            yield from known_keys(inner, (*prefix, name, ids[0] if ids else "ID"), ids[1:])
        else:
            yield from known_keys(inner, (*prefix, name), ids)


def unknown_key(path: KeyPath) -> ConfigError:
    """The error for an unknown key. It names a similar sibling, the same name elsewhere, or the nearest."""
    # Use the ids of the path itself, so that a misspelt key is compared with its siblings and not with "ID".
    ids = path[1::2][: (len(path) - 1) // 2] if path[0] == "machines" else ()
    keys = list(known_keys(ids=ids))
    at = len(path) - 1
    siblings = list(dict.fromkeys(key[at] for key in keys if len(key) > at and key[:at] == path[:at]))
    alike = difflib.get_close_matches(path[-1], siblings, n=1)
    elsewhere = [key for key in keys if key[-1] == path[-1]]
    nearest = difflib.get_close_matches(dotted(path), [dotted(key) for key in elsewhere or keys], n=1, cutoff=0.0)
    hint = dotted((*path[:at], alike[0])) if alike else nearest[0]
    return ConfigError(f"{dotted(path)}: unknown key", hint=f"nearest known key: {hint}")


def leaves(table: Table, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every single value of a configuration with its path, without those that are None."""
    for name, kind in fields(type(table)).items():
        path, value = (*prefix, name), getattr(table, name)
        inner, by_id = table_of(kind)
        if value is None:
            continue
        if by_id:
            for entry_id, entry in value.items():
                yield from leaves(entry, (*path, entry_id))
        elif inner is not None and isinstance(value, Table):
            yield from leaves(value, path)
        else:
            yield path, value
