"""The description of the API, OpenAPI 3.1. A test compares its paths with the routes of the application."""

from __future__ import annotations

from typing import Any

from pipeline import __version__
from pipeline.edges.labels import SOURCES, STAGES, VERDICTS

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
TIME = {"type": "string", "description": "ISO 8601 in UTC, or milliseconds since 1970"}


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
            "A POST needs Content-Type application/json and the Origin of the page. Where web.token_file is set, every "
            "request needs Authorization: Bearer TOKEN.",
        },
        "paths": {
            "/api/openapi.json": {"get": _get("This document")},
            "/api/stream": {
                "get": _get(
                    "Server-sent events: `fleet` (everything, first), `tick` (header and the streams that changed), "
                    "`changed` (somebody changed labels or alarms)",
                    kind="text/event-stream",
                )
            },
            "/api/v1/session": {"post": _post("Exchange the token for a cookie", {"token": TEXT}, ["token"])},
            "/api/v1/fleet": {"get": _get("All streams with their states, and the open alarms")},
            "/api/v1/features": {"get": _get("Every feature with unit, formula and source")},
            "/api/v1/alarms": {"get": _get("Open alarms, and those that ended since the service began")},
            "/api/v1/alarms/acknowledge": {
                "post": _post("Acknowledge an open alarm; answers when a commit covers it", {"id": TEXT}, ["id"])
            },
            "/api/v1/labels": {
                "get": _get("All labels, newest first, and which no model has seen", [_in_query("machine", TEXT)]),
                "post": _post("Store a label; the same client_token stores it once", _LABEL, _NEEDED),
            },
            "/api/v1/labels/preview": {
                "post": _post("How many windows a label would cover, and what the model said", _LABEL, _NEEDED[:3])
            },
            "/api/v1/labels/{id}/retract": {
                "post": _post("Retract a label", {"by": TEXT}, []) | {"parameters": [_in_path("id")]}
            },
            "/api/v1/models": {"get": _get("Model versions with aliases and held-out numbers")},
            "/api/v1/quality": {"get": _get("Gaps, late blocks, quarantine by reason, remarks, ages")},
            "/api/v1/settings": {"get": _get("Every setting with its source; secrets are masked")},
            stream: {"get": _get("One stream in full", place)},
            f"{stream}/window": {
                "get": _get(
                    "The last whole window: arrays waveform, power, envelope. 204: there is none yet",
                    [*place, _in_query("channel", TEXT)],
                    kind="application/vnd.thrumcast.frame",
                )
            },
            f"{stream}/trend": {
                "get": _get(
                    "A feature over time: arrays min, max, mean of equal buckets",
                    [
                        *place,
                        _in_query("feature", TEXT),
                        _in_query("channel", TEXT),
                        _in_query("from", TIME),
                        _in_query("to", TIME),
                        _in_query("buckets", {"type": "integer", "maximum": 2000}),
                    ],
                    kind="application/vnd.thrumcast.frame",
                )
            },
        },
        "components": {
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["title", "status"],
                    "properties": {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "hint": TEXT},
                }
            }
        },
    }


_NEEDED = ["machine", "start", "end", "client_token"]
_LABEL: dict[str, Any] = {
    "machine": TEXT,
    "point": TEXT,
    "start": TIME,
    "end": TIME,
    "verdict": {"enum": list(VERDICTS)},
    "mode": TEXT,
    "stage": {"enum": list(STAGES)},
    "source": {"enum": list(SOURCES)},
    "certainty": {"description": "sure, likely, guess, or a weight up to 1"},
    "work_order": TEXT,
    "note": TEXT,
    "author": TEXT,
    "client_token": TEXT,
}


def _get(
    summary: str, parameters: list[dict[str, Any]] | None = None, kind: str = "application/json"
) -> dict[str, Any]:
    return {"summary": summary, "parameters": parameters or [], "responses": _responses(kind)}


def _post(summary: str, fields: dict[str, Any], needed: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": fields, "required": needed}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses("application/json"),
    }


def _responses(kind: str) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "as asked", "content": {kind: {}}},
        "default": {"description": "an error, with a hint", "content": problem},
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
