"""From flags, environment and file to a `Config`: a flag wins over THRUMCAST_SECTION__KEY, that over the file.

1. Flatten every source to paths such as ("window", "length_s"), each with its raw value and where it was set.
2. For each path the stronger source wins; a default holds where no source has a value.
3. Check and convert each value by itself, so that an error can name the key, the value and where it was set.
4. Check the rules that tie several keys together (`pipeline.config.rules`).
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import msgspec

from pipeline.config.keys import (
    KeyPath,
    array_of,
    check_id,
    dotted,
    fields,
    leaf_type,
    leaves,
    may_be_a_name,
    names_a_machine_or_point,
    table_of,
    unknown_key,
)
from pipeline.config.rules import check
from pipeline.config.tables import Config, Table
from pipeline.errors import ConfigError

ENVIRONMENT_PREFIX = "THRUMCAST_"
SEARCHED_FILES = (Path("config.toml"), Path("/etc/thrumcast/config.toml"))


@dataclass(frozen=True, slots=True)
class Setting:
    """A value with its origin."""

    value: Any
    source: str  # default, file, env or flag
    place: str = ""  # the file's path, the variable's name


@dataclass(frozen=True, slots=True)
class Resolution:
    """A configuration, and where each of its values comes from."""

    config: Config
    settings: Mapping[KeyPath, Setting]
    file: Path | None


def load(
    config_file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Resolution:
    """The configuration of this run.

    Args:
        config_file: the file to read; None: ./config.toml, then /etc/thrumcast/config.toml.
        flags: values by dotted key, as `{"data.dir": "D"}`; text is converted as in the environment.
        environment: os.environ unless given.

    Raises:
        ConfigError: the file is unreadable, a key is unknown, or a value has the wrong type or is out of range. Its
            `others` are the other errors.
    """
    errors: list[ConfigError] = []
    file = config_file or next((path for path in SEARCHED_FILES if path.is_file()), None)
    given: dict[KeyPath, Setting] = {}
    if file is not None:
        given |= _from_file(file, errors)
    given |= _from_environment(os.environ if environment is None else environment, errors)
    given |= _from_flags(flags or {}, errors)
    document: dict[str, Any] = {}
    for path, setting in given.items():
        with _kept(errors):
            entry = array_of(leaf_type(path)) if len(path) == 1 else None  # arrays of tables stand at the top
            if entry is not None:
                errors += _misfits(path, setting, entry)
                _put(document, path, setting.value)
                continue
            value = _converted(path, setting)
            given[path] = Setting(value, setting.source, setting.place)
            _put(document, path, value)
    if not errors:
        config = msgspec.convert(document, Config)
        errors += check(config)
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    settings = {path: Setting(value, "default") for path, value in leaves(config)} | given
    return Resolution(config, settings, file)


@contextlib.contextmanager
def _kept(errors: list[ConfigError]) -> Iterator[None]:
    """Collects an error, so that all errors are reported together."""
    try:
        yield
    except ConfigError as error:
        errors.append(error)


def _put(document: dict[str, Any], path: KeyPath, value: Any) -> None:
    table = document
    for at, part in enumerate(path[:-1], 1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            _refuse_both(path[:at])
    if isinstance(table.get(path[-1]), dict) and value != {}:
        _refuse_both(path)
    table.setdefault(path[-1], value)


def _refuse_both(path: KeyPath) -> NoReturn:
    msg = f"{dotted(path)}: expected a name or a table, found: both"
    raise ConfigError(msg, hint="the file and the environment (or a flag) set both; remove one of them")


def _from_file(file: Path, errors: list[ConfigError]) -> dict[KeyPath, Setting]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{file}: expected a readable configuration file, found: {error.strerror}"
        raise ConfigError(msg, hint="give another file with --config FILE, or none to use the defaults") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file}: expected TOML, found: {error}"
        raise ConfigError(msg, hint="put text into quotes and the names of tables into [brackets]") from error
    return {path: Setting(value, "file", str(file)) for path, value in _flattened(document, (), Config, errors)}


def _flattened(
    table: Mapping[str, Any], prefix: KeyPath, struct: type[Table], errors: list[ConfigError]
) -> Iterator[tuple[KeyPath, Any]]:
    """The single values of a parsed file. Unknown keys are errors."""
    types = fields(struct)
    for key, value in table.items():
        path = (*prefix, key)
        with _kept(errors):
            if key not in types:
                raise unknown_key(path)
            inner, by_id = table_of(types[key])
            if inner is None or (isinstance(value, str) and may_be_a_name(types[key])):
                yield path, value
            elif by_id:
                for name, entry in _as_table(path, value).items():
                    yield from _entry((*path, name), entry, inner, errors)
            else:
                yield from _flattened(_as_table(path, value), path, inner, errors)


def _entry(
    path: KeyPath, entry: object, struct: type[Table], errors: list[ConfigError]
) -> Iterator[tuple[KeyPath, Any]]:
    """One machine or point, under the id that the user chose."""
    with _kept(errors):
        check_id(path)
        table = _as_table(path, entry)
        if not table:
            yield path, {}  # an empty table still names a machine
        yield from _flattened(table, path, struct, errors)


def _as_table(path: KeyPath, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = f"{dotted(path)}: expected a table, found: {value!r}"
        raise ConfigError(msg, hint=f"write the line [{dotted(path)}], and its keys below it")
    return value


def _from_environment(environment: Mapping[str, str], errors: list[ConfigError]) -> dict[KeyPath, Setting]:
    found: dict[KeyPath, Setting] = {}
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            with _kept(errors):
                found[path] = _text_setting(path, Setting(text, "env", name))
    return found


def _from_flags(flags: Mapping[str, object], errors: list[ConfigError]) -> dict[KeyPath, Setting]:
    found: dict[KeyPath, Setting] = {}
    for key, value in flags.items():
        path = tuple(key.split("."))
        text = str(value) if isinstance(value, Path) else value
        with _kept(errors):
            found[path] = _text_setting(path, Setting(text, "flag", "a flag"))
    return found


def _text_setting(path: KeyPath, setting: Setting) -> Setting:
    """The setting of a single-valued key, with its text converted to the key's type if possible."""
    kind = leaf_type(path)
    if get_origin(kind) in (tuple, dict):
        msg = f"{dotted(path)}: expected a list or table in config.toml, found: {setting.place}"
        raise ConfigError(msg, hint="only single values can be set from outside the file")
    if not isinstance(setting.value, str):
        return setting
    try:
        return Setting(msgspec.convert(setting.value, kind, strict=False), setting.source, setting.place)
    except msgspec.ValidationError:
        return setting  # _converted refuses it and says why


def _converted(path: KeyPath, setting: Setting) -> Any:
    value = setting.value
    if value == {} and names_a_machine_or_point(path):
        return value
    kind = leaf_type(path)
    if isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    else:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            expected = _expected(kind, str(error))
    msg = f"{dotted(path)}: expected {expected}, found: {reprlib.repr(value)}"
    raise ConfigError(msg, hint=f"set in {setting.place}")


def _misfits(path: KeyPath, setting: Setting, entry: type[Table]) -> Iterator[ConfigError]:
    """What is wrong in an array of tables: unknown keys and values of another type, each with its place."""
    tables = setting.value
    if not isinstance(tables, list):
        msg = f"{dotted(path)}: expected tables [[{dotted(path)}]], found: {reprlib.repr(tables)}"
        yield ConfigError(msg, hint=f"set in {setting.place}")
        return
    types = fields(entry)
    for at, table in enumerate(tables):
        place = f"{dotted(path)}[{at}]"
        for key in table.keys() - types.keys() if isinstance(table, dict) else ():
            alike = difflib.get_close_matches(key, types, n=1, cutoff=0.0)
            yield ConfigError(f"{place}.{key}: unknown key", hint=f"nearest known key: {place}.{alike[0]}")
        known = {key: value for key, value in table.items() if key in types} if isinstance(table, dict) else table
        try:
            msgspec.convert(known, entry)
        except msgspec.ValidationError as error:
            key = "".join(re.findall(r" - at `\$([^`]*)`$", str(error)))
            kind = types.get(key.removeprefix("."), object)
            found = known.get(key.removeprefix(".")) if isinstance(known, dict) else known
            msg = f"{place}{key}: expected {_expected(kind, str(error))}, found: {reprlib.repr(found)}"
            yield ConfigError(msg, hint=f"set in {setting.place}")


def _expected(kind: Any, message: str) -> str:
    """What a type expects, in words: from its literals or msgspec's message (`Expected `float` > 0.0 - at `$``)."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return f"one of {', '.join(map(str, get_args(part)))}"
    text = re.sub(r", got .*$| - at `[^`]*`$", "", message).replace("`", "").replace(" | null", "")
    return "a number that fits into 64 bits" if text == "Number out of range" else text.removeprefix("Expected ")
