"""Who may ask the page for what: an ASGI layer in front of the whole application.

* A POST needs `Content-Type: application/json` and an `Origin` that is the page's own: no other site can send one.
* A body has a size and a time limit.
* On anything but loopback every request needs the token of `web.token_file`, as `Authorization: Bearer TOKEN` or as the
  cookie that `POST /api/v1/session` sets. Without such a file the page is served on loopback only.
* Every answer carries `Content-Security-Policy: default-src 'self'` and may not be framed.

The Host of a request is checked before, by `pipeline.service.http`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import ConfigError

MOST_BODY_BYTES = 65_536
BODY_S = 5.0  # how long a client may take to send a body
COOKIE = "thrumcast_token"
LEAST_TOKEN = 16  # characters
OPEN = ("/", "/static/")  # the page itself holds nothing; it asks for the token
SESSION = "/api/v1/session"

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


def read_token(path: str) -> str | None:
    """The token of `web.token_file`; None if none is configured.

    Raises:
        ConfigError: the file cannot be read or its token is too short.
    """
    if not path:
        return None
    try:
        token = Path(path).expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"web.token_file: expected a readable file with the token, found: {path} ({error})"
        raise ConfigError(msg, hint="the file holds the token alone, on one line") from error
    if len(token) < LEAST_TOKEN:
        msg = f"web.token_file: expected a token of at least {LEAST_TOKEN} characters, found: {len(token)}"
        raise ConfigError(msg, hint="make one: openssl rand -hex 24")
    return token


def problem(status: int, title: str, hint: str = "", **more: object) -> bytes:
    """The body of an error: problem+json (RFC 9457) with a hint."""
    return msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "hint": hint, **more})


class Guard:
    """Checks a request before the application sees it."""

    def __init__(self, app: ASGIApp, *, token: str | None, open_to_all: bool) -> None:
        """Guard an application.

        Args:
            app: What answers.
            token: The token that requests need; None: none is configured.
            open_to_all: Whether only this machine can reach the address, so that no token is needed.
        """
        self._app, self._token, self._open = app, token, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST":
            body, refusal = await _body(headers, receive)
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

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        path, method = scope["path"], scope["method"]
        if not self._open and self._token is None:
            return 403, "the page is served on loopback only", "set web.token_file to open it to other machines"
        if method == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, "unsupported content type", "send application/json"
            origin = headers.get("origin", "")
            if urlsplit(origin).netloc.lower() != headers.get("host", "").lower() or not origin.startswith("http"):
                return 403, "wrong origin", f"send Origin: http://{headers.get('host', 'HOST:PORT')}"
        if self._token is None or path == OPEN[0] or path.startswith(OPEN[1]) or path == SESSION:
            return None
        if not hmac.compare_digest(_given_token(headers).encode(), self._token.encode()):
            return 401, "a token is needed", "send Authorization: Bearer TOKEN, or sign in on the page"
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


async def _body(headers: dict[str, str], receive: Receive) -> tuple[bytes, tuple[int, str, str] | None]:
    too_large = (413, "body too large", f"at most {MOST_BODY_BYTES} bytes")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > MOST_BODY_BYTES:
        return b"", too_large
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MOST_BODY_BYTES:
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
