"""Turns every failure into one shape, problem+json (RFC 9457), and lets no stack trace out.

Invariant: whatever goes wrong, the answer says what failed in a sentence; what only we can read goes to the log.
"""

import logging
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kvmove.errors import InvalidInput, KvmoveError, NotFound
from kvmove.model.toml_file import explain_fault

_LOG = logging.getLogger(__name__)
_FROM = {"body", "query", "path", "header"}  # where FastAPI found a value; a person knows where they wrote it


def problem_response(error: KvmoveError, status: int | None = None) -> JSONResponse:
    """`error` as problem+json; `status` replaces the one of its kind."""
    body: dict[str, Any] = error.problem()
    body["status"] = status or error.status
    return JSONResponse(body, status_code=body["status"], media_type="application/problem+json")


def add_handlers(app: FastAPI) -> None:
    """Teach `app` to answer every kind of failure with a problem."""
    app.add_exception_handler(KvmoveError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def _known(_request: Request, error: Exception) -> Response:
    return problem_response(cast(KvmoveError, error))


def _invalid(_request: Request, error: Exception) -> Response:
    faults = cast(RequestValidationError, error).errors()
    said = "; ".join(explain_fault(fault["type"], _place(fault["loc"]), fault["msg"]) for fault in faults)
    return problem_response(InvalidInput(f"the request is not valid: {said}"))


def _place(where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return where[1:] if where and where[0] in _FROM else where


def _http(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    if status == 405:
        said: KvmoveError = InvalidInput(f"{request.method} is not possible on {request.url.path}")
    elif status == 404:
        said = NotFound(f"there is nothing at {request.url.path}", hint="GET /openapi.json lists what there is")
    else:
        said = InvalidInput(str(cast(HTTPException, error).detail))
    return problem_response(said, status)


def _unknown(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return problem_response(
        KvmoveError("the manager met an error that it did not expect", hint="the manager's log has the details")
    )
