"""Who may ask the page for what: an ASGI layer in front of the whole application.

* A POST needs `Content-Type: application/json` and an `Origin` that is the page's own: no other site can send one.
* A body has a size and a time limit.
* Where tokens are configured every request needs one, as `Authorization: Bearer TOKEN` or as the cookie that
  `POST /api/v1/session` sets. A token of `web.token_file` may change things, one of `web.read_token_file` may only
  look. Without tokens the page is served on loopback only.
* Whoever has a token has its name: what a client says of itself does not count.
* Every answer carries `Content-Security-Policy: default-src 'self'` and may not be framed.

The Host of a request is checked before, by `pipeline.service.http`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.tables import WebConfig

MOST_BODY_BYTES = 65_536
MOST_IMPORT_BYTES = 4 * 2**20
BODY_S = 5.0  # how long a client may take to send a body
COOKIE = "thrumcast_token"
TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,256}")
NAME = re.compile(r"[\w.@+-]{1,64}")
OPEN = ("/", "/static/")  # the page itself holds nothing; it asks for the token
SESSION = "/api/v1/session"
IMPORT = "/api/v1/labels/import"
CHANGES_NOTHING = frozenset((SESSION, "/api/v1/labels/preview"))  # every other POST needs the right to change things

HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

log = logging.getLogger("thrumcast.web")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: the name of the token, None without tokens, and whether the token may change things."""

    name: str | None = None
    may_change: bool = True


def read_tokens(web: WebConfig) -> dict[str, Visitor]:
    """Token -> visitor, from `web.token_file` and `web.read_token_file`; empty if neither is configured.

    A line of such a file is `TOKEN` or `NAME TOKEN`. Empty lines and lines that begin with # do not count.

    Raises:
        ConfigError: a file cannot be read, or a line of it is no token.
    """
    found: dict[str, Visitor] = {}
    for key, path, may_change in (
        ("web.token_file", web.token_file, True),
        ("web.read_token_file", web.read_token_file, False),
    ):
        lines = _lines(key, path) if path else []
        for number, line in lines:
            *names, token = line.split()
            name = names[0] if names else ("page" if may_change else "reader")
            if len(names) > 1 or not TOKEN.fullmatch(token) or not NAME.fullmatch(name) or token in found:
                expected = "TOKEN or NAME TOKEN, each token once and of 16 or more characters"
                msg = f"{key}: expected {expected}, found something else in line {number} of {path}"
                raise ConfigError(msg, hint="make one: openssl rand -hex 24")
            found[token] = Visitor(name, may_change)
        if path and not lines:
            msg = f"{key}: expected a token, found none in {path}"
            raise ConfigError(msg, hint="make one: openssl rand -hex 24")
    return found


def visitor_of(tokens: Mapping[str, Visitor], given: str) -> Visitor | None:
    """The visitor with this token; takes as long for a wrong one as for a right one."""
    found = None
    for token, visitor in tokens.items():
        if hmac.compare_digest(given.encode(), token.encode()):
            found = visitor
    return found


def _lines(key: str, path: str) -> list[tuple[int, str]]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{key}: expected a readable file with tokens, found: {path} ({error})"
        raise ConfigError(msg, hint="a line of the file is TOKEN or NAME TOKEN") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def problem(status: int, title: str, hint: str = "", **more: object) -> bytes:
    """The body of an error: problem+json (RFC 9457) with a hint."""
    return msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "hint": hint, **more})


class Guard:
    """Checks a request before the application sees it."""

    def __init__(
        self, app: ASGIApp, *, takes_post: Callable[[Scope], bool], tokens: Mapping[str, Visitor], open_to_all: bool
    ) -> None:
        """Guard an application, which finds the visitor in `scope["visitor"]`.

        Args:
            app: What answers.
            takes_post: Whether the application does anything with this POST; any other gets its 404 or 405.
            tokens: Of which every request needs one; empty: none is configured.
            open_to_all: Whether only this machine can reach the address, so that no token is needed.
        """
        self._app, self._takes_post, self._tokens, self._open = app, takes_post, tokens, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        visitor = visitor_of(self._tokens, _given_token(headers)) if self._tokens else Visitor()
        refusal = self._refusal(scope, headers, visitor)
        scope = {**scope, "visitor": visitor}
        if refusal is None and scope["method"] == "POST":
            body, refusal = await _body(
                headers, receive, MOST_IMPORT_BYTES if scope["path"] == IMPORT else MOST_BODY_BYTES
            )
            receive = _replay(body)
        guarded = _with_headers(send)
        if refusal is None:
            await self._app(scope, receive, guarded)
            return
        status, title, hint = refusal
        content = problem(status, title, hint)
        kind = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(content)).encode())]
        if status in (408, 413):
            kind.append((b"connection", b"close"))
        await guarded({"type": "http.response.start", "status": status, "headers": kind})
        await guarded({"type": "http.response.body", "body": content})

    def _refusal(self, scope: Scope, headers: dict[str, str], visitor: Visitor | None) -> tuple[int, str, str] | None:
        path, method = scope["path"], scope["method"]
        if not self._open and not self._tokens:
            return 403, "the page is served on loopback only", "set web.token_file to open it to other machines"
        if method == "POST" and self._takes_post(scope):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, "unsupported content type", "send application/json"
            origin = headers.get("origin", "")
            if urlsplit(origin).netloc.lower() != headers.get("host", "").lower() or not origin.startswith("http"):
                return 403, "wrong origin", f"send Origin: http://{headers.get('host', 'HOST:PORT')}"
        if path == OPEN[0] or path.startswith(OPEN[1]) or path == SESSION:
            return None
        if visitor is None:
            return 401, "a token is needed", "send Authorization: Bearer TOKEN, or sign in on the page"
        if method == "POST" and path not in CHANGES_NOTHING and not visitor.may_change:
            log.info("page_refused path=%s by=%r", path, visitor.name)
            return 403, "this token may only look", "a token of web.token_file may change things"
        return None


def _given_token(headers: dict[str, str]) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


async def _body(
    headers: dict[str, str], receive: Receive, most_bytes: int
) -> tuple[bytes, tuple[int, str, str] | None]:
    too_large = (413, "body too large", f"at most {most_bytes} bytes")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > most_bytes:
        return b"", too_large
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    return b"", too_large
                if message["type"] != "http.request" or not message.get("more_body"):
                    return body, None
    except TimeoutError:
        return b"", (408, "body too slow", f"send it within {BODY_S:g} s")


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in names]
            if b"cache-control" not in names:
                more.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*given, *more]}
        await send(message)

    return guarded
