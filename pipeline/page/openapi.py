"""The description of the API: what a request may hold, and what an answer holds. OpenAPI 3.1.

A body is a struct of this module. The API decodes requests with it, and the description is made from it, so both say
the same. A test compares the paths with the routes of the application, and schemathesis tries them all.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipeline import __version__

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
TIME = {"type": "string", "description": "ISO 8601 in UTC, or milliseconds since 1970"}
FRAME = "application/vnd.thrumcast.frame"
FORMAT = {"enum": ["csv", "json"]}

Time = Annotated[str, Meta(description="ISO 8601, in UTC unless it names another zone")]
Name = Annotated[str, Meta(max_length=64)] | None
Reason = Annotated[str, Meta(min_length=1, description="kept in the history of the registry")]
By = Annotated[Name, Meta(description="who does it; the name of a token takes its place")]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a POST may hold; a field that is not given, or null, takes its default."""


class Session(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signing in."""

    token: str


class Change(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A change that needs nothing but a name."""

    by: By = None


class Acknowledge(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An alarm that somebody has seen."""

    id: str


class Label(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finding about a machine."""

    machine: str
    point: Annotated[str | None, Meta(description="null: all points of the machine")] = None
    start: Time
    end: Time
    verdict: Literal["confirmed", "wrong_mode", "false_alarm", "missed", "unsure"] | None = None
    mode: Annotated[str | None, Meta(description="an id or alias of [modes]; not needed if unsure")] = None
    stage: Literal["incipient", "developed", "severe", "failed"] | None = None
    source: Literal["inspection", "parts_replaced", "analyst", "ran_to_failure", "operator"] | None = None
    certainty: Annotated[
        Literal["sure", "likely", "guess"] | float | None, Meta(description="a word, or a weight above 0, at most 1")
    ] = None
    work_order: str | None = None
    note: str | None = None
    author: By = None
    client_token: Annotated[str, Meta(min_length=1, description="new for a new label; the same stores it once")]


class Import(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Labels of a file."""

    content: str
    format: Literal["csv", "json"]


class Train(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training."""

    settings: Annotated[str, Meta(description="words KEY=VALUE as for `thrumcast train --set`")] = ""
    split: Annotated[str | None, Meta(description="as for `thrumcast train --split`")] = None


class Promote(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another champion."""

    why: Reason
    force: bool = False


class Rollback(Change, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An earlier champion."""

    why: Reason
    to: Annotated[str | None, Meta(description="a version; null: the champion before")] = None


BODIES = (Session, Change, Acknowledge, Label, Import, Train, Promote, Rollback)


def document() -> dict[str, Any]:
    """The whole description."""
    stream = "/api/v1/streams/{machine}/{point}"
    place = [_in_path("machine"), _in_path("point")]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "thrumcast",
            "version": __version__,
            "description": "The live page's own API. Times are milliseconds since 1970 UTC, units stand in the names. "
            "A POST needs Content-Type application/json and the Origin of the page. Where tokens are configured, every "
            "request needs Authorization: Bearer TOKEN; a token of web.read_token_file may only look.",
        },
        "paths": {
            "/api/openapi.json": {"get": _get("This document")},
            "/api/stream": {
                "get": _get(
                    "Server-sent events: `fleet` (everything, first), `tick` (header and the streams that changed), "
                    "`changed` (somebody changed labels, alarms or models), `training`",
                    kind="text/event-stream",
                )
            },
            "/api/v1/session": {"post": _post("Exchange the token for a cookie", Session, "needed")},
            "/api/v1/me": {"get": _get("Who asks, as the token says", _holds("name", "may_change", "signed_in"))},
            "/api/v1/fleet": {
                "get": _get("All streams with their states, and the open alarms", _holds("header", "streams", "alarms"))
            },
            "/api/v1/features": {"get": _get("Every feature with unit, formula and source", _holds("features"))},
            "/api/v1/alarms": {
                "get": _get("Open alarms, and those that ended since the service began", _holds("open", "ended"))
            },
            "/api/v1/alarms/report": {
                "get": _get(
                    "An alarm on one page, made from the archive", None, [_in_query("id", TEXT)], kind="text/html"
                )
            },
            "/api/v1/alarms/acknowledge": {
                "post": _post(
                    "Acknowledge an open alarm; answers when a commit covers it", Acknowledge, "id", "pending"
                )
            },
            "/api/v1/labels": {
                "get": _get(
                    "All labels, newest first, and which no model has seen",
                    _holds("labels", "not_in_model"),
                    [_in_query("machine", TEXT)],
                ),
                "post": _post(
                    "Store a label; the same client_token stores it once", Label, "id", "label", "new", "windows"
                ),
            },
            "/api/v1/labels/preview": {
                "post": _post("How many windows a label would cover, and what the model said", Label, "windows", "said")
            },
            "/api/v1/labels/export": {
                "get": _get(
                    "The labels that hold, as CSV or JSON", None, [_in_query("format", FORMAT)], kind="text/csv"
                )
            },
            "/api/v1/labels/import": {
                "post": _post("Store the labels of a CSV or JSON file, all or none", Import, "labels", "new", "windows")
            },
            "/api/v1/labels/{id}/retract": {
                "post": _post("Retract a label", Change, "id", "retracted") | {"parameters": [_in_path("id")]}
            },
            "/api/v1/labels/{id}/restore": {
                "post": _post("Undo a retraction: stores the label under a new id", Change, "id", "label", "new")
                | {"parameters": [_in_path("id")]}
            },
            "/api/v1/models": {
                "get": _get(
                    "Model versions with aliases, held-out numbers and the gate's verdict",
                    _holds("versions", "aliases", "rollback_to", "history"),
                )
            },
            "/api/v1/models/{version}/promote": {
                "post": _post(
                    "Make a version the champion; 409: the gate refuses it", Promote, "champion", "before", "why"
                )
                | {"parameters": [_in_path("version")]}
            },
            "/api/v1/models/rollback": {
                "post": _post("Make an earlier version the champion again", Rollback, "champion", "before", "why")
            },
            "/api/v1/models/{version}/pictures/{name}": {
                "get": _get(
                    "A picture that the training drew", None, [_in_path("version"), _in_path("name")], kind="image/png"
                )
            },
            "/api/v1/training": {
                "get": _get("The newest training since the service began", _holds("state", "by", "status", "log")),
                "post": _post("Begin a training; 409: one is running", Train, "state", "by"),
            },
            "/api/v1/training/cancel": {"post": _post("End the training; registers nothing", Change, "state")},
            "/api/v1/audit": {"get": _get("The newest changes: who, when, what", _holds("changes"))},
            "/api/v1/quality": {
                "get": _get(
                    "Gaps, late blocks, quarantine by reason, remarks, ages", _holds("messages", "streams", "health")
                )
            },
            "/api/v1/settings": {"get": _get("Every setting with its source; secrets are masked", _holds("settings"))},
            stream: {"get": _get("One stream in full", _holds("machine", "point", "state", "features"), place)},
            f"{stream}/window": {
                "get": _get(
                    "The last whole window: arrays waveform, power, envelope. 204: there is none yet",
                    None,
                    [*place, _in_query("channel", TEXT)],
                    kind=FRAME,
                )
            },
            f"{stream}/trend": {
                "get": _get(
                    "A feature over time: arrays min, max, mean of equal buckets",
                    None,
                    [
                        *place,
                        _in_query("feature", TEXT),
                        _in_query("channel", TEXT),
                        _in_query("from", TIME),
                        _in_query("to", TIME),
                        _in_query("buckets", {"type": "integer", "maximum": 2000}),
                    ],
                    kind=FRAME,
                )
            },
        },
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["title", "status", "hint"],
                    "properties": {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "hint": TEXT},
                },
                **msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")[1],
            },
        },
    }


def _holds(*names: str) -> dict[str, Any]:
    """An object that has at least these fields."""
    return {"type": "object", "required": list(names)}


def _get(
    summary: str,
    schema: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    kind: str = "application/json",
) -> dict[str, Any]:
    return {"summary": summary, "parameters": parameters or [], "responses": _responses(kind, schema)}


def _post(summary: str, body: type[Body], *answered: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses("application/json", _holds(*answered)),
    }


def _responses(kind: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    content: dict[str, Any] = {kind: {} if schema is None else {"schema": schema}}
    if kind == "text/csv":
        content["application/json"] = {}
    found = {"200": {"description": "as asked", "content": content}, "default": _problem(problem)}
    if kind == FRAME:
        found["204"] = {"description": "there is nothing yet"}
    return found


def _problem(content: dict[str, Any]) -> dict[str, Any]:
    return {"description": "an error, with a hint", "content": content}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
