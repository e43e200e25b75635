"""Checks between the network and the routes: access, limits of bodies, errors as JSON, request counts, headers."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightcrl.errors import (
    BusyError,
    DataError,
    HeadError,
    LightCRLError,
    LockedError,
    MediaTypeError,
    ModalityError,
    NotReadyError,
    QueryError,
    RequestError,
    ShapeError,
    UnknownNameError,
)
from lightcrl.serve.keys import check_write
from lightcrl.serve.limits import Limits, read_body, read_json
from lightcrl.serve.metrics import Metrics
from lightcrl.serve.service import Service

OPEN = frozenset(["/", "/docs", "/healthz", "/readyz"])
"""Routes that need neither a key nor a ready server."""

WRITES = frozenset(["POST /items", "DELETE /items", "DELETE /items/{item:path}"])

ASKERS = (DataError, HeadError, ModalityError, QueryError, ShapeError, UnknownNameError)
"""Errors caused by the client; all others are the server's own."""

HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"), (b"referrer-policy", b"same-origin"))


class Bounded(Request):
    """A request with its whole body, already checked against its media type."""

    def __init__(self, scope: Scope, body: bytes, value: Any) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        super().__init__(scope, receive)
        self._value = value

    async def json(self) -> Any:
        """Return the JSON value of the body, read within the limits."""
        return self._value


class BoundedRoute(APIRoute):
    """A route behind checks of the access and, after it, of the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that passes checked requests to the route's own handler."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            service: Service = request.app.state.service
            check_access(service, request, self.path)
            body, value = await bounded_body(request, service.settings.limits)
            return await handle(Bounded(request.scope, body, value))

        return handle_bounded


def check_access(service: Service, request: Request, route: str) -> None:
    """Return if a request is allowed to reach its route.

    Raises:
        AccessError: the request has no valid key.
        ReadOnlyError: the request would change a read-only index, or it comes from a page of another site.
        NotReadyError: the server is warming up.
    """
    if route in OPEN:
        return
    service.settings.keys.check(request.headers.get("authorization"))
    if f"{request.method} {route}" in WRITES:
        check_write(service.settings.writable, request.headers)
    if route != "/metrics":
        service.check_ready()


async def bounded_body(request: Request, limits: Limits) -> tuple[bytes, Any]:
    """Return the body of a request, and its value if the body is JSON.

    Raises:
        TooLargeError: the body is too large.
        SlowRequestError: the body does not arrive in time.
        MediaTypeError: the body is neither JSON nor a form with files, by its media type.
        RequestError: the body is invalid JSON.
    """
    body = await read_body(request.stream(), request.headers.get("content-length"), limits)
    if request.method != "POST":
        return body, None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return body, read_json(body, limits)
    if kind == "multipart/form-data" and request.url.path == "/items":
        return body, None
    forms = " or multipart/form-data" if request.url.path == "/items" else ""
    raise MediaTypeError(f"a body of type {kind or 'none'!r}; expected application/json{forms}.")


def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to an error: JSON with the error's status."""
    status = 500
    if isinstance(error, RequestError):
        status = error.status
    elif isinstance(error, ASKERS):
        status = 400
    elif isinstance(error, LockedError):
        status = 503
    headers = {"Retry-After": str(error.retry)} if isinstance(error, BusyError) else {}
    if isinstance(error, NotReadyError):
        headers["Retry-After"] = "2"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    told = isinstance(error, LightCRLError)
    message = str(error) if told else "internal error; the server's log has more."
    return as_json(status, message, type(error).__name__ if told else "InternalError", headers)


def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to a request that does not fit its model, in the same format."""
    assert isinstance(error, RequestValidationError)
    return as_json(422, explain(error.errors()), "RequestError")


def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Return the answer to an error of the framework, such as an unknown route or method, in the same format."""
    assert isinstance(error, HTTPException)
    return as_json(error.status_code, str(error.detail), "RequestError", dict(error.headers or {}))


def explain(errors: Sequence[Any]) -> str:
    """Return the validation errors of a value as one sentence."""
    # A value may have several forms; the deepest error belongs to the form that it fits best.
    first = max(errors, key=lambda error: len(error["loc"]))
    place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place[:200]}: {first['msg']}{more}."


def as_json(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error answer in the format of all errors.

    Lone surrogates of UTF-16, which UTF-8 cannot encode, become question marks.
    """
    message = message[:1000].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)


@final
class Watch:
    """Middleware that counts requests and adds headers against MIME sniffing and framing."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application; `metrics` receives the counts."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "other"
            self._metrics.request(route, method, status, time.perf_counter() - begun)
