"""Requests made from the server's own OpenAPI schema, right and wrong ones: none breaks it.

With LIGHTCRL_HOSTILE=10000, so many of each operation and kind.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from lazily import Lazily
from served import served_with

schemathesis = Lazily("schemathesis")

EXAMPLES = int(os.environ.get("LIGHTCRL_HOSTILE", "6"))

OPERATIONS = (
    *(
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /info",
        "POST /search",
        "POST /captions",
        "POST /v1/embeddings",
        "GET /items",
    ),
    *("POST /items", "DELETE /items", "GET /items/{item}", "DELETE /items/{item}", "GET /items/{item}/content"),
    *("GET /map", "GET /duplicates", "GET /outliers"),
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory, embedder):
    """The schema of a writable server that is ready."""
    with served_with(tmp_path_factory.mktemp("schema"), embedder, writable=True) as served:

        async def running(scope, receive, send):
            """The application without its start and end, which every request of schemathesis would bring."""
            if scope["type"] != "lifespan":
                await served.client.app(scope, receive, send)
                return
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})

        yield schemathesis.openapi.from_asgi("/openapi.json", running)


@pytest.mark.timeout(0 if EXAMPLES > 100 else 300)
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_breaks_the_server(schema, operation, mode):
    method, path = operation.split()
    tried = []

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def try_one(data):
        case = data.draw(schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
        response = case.call()
        case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])
        tried.append(response.status_code)

    try:
        try_one()
    except Unsatisfiable:  # an operation without parameters: nothing can be wrong of it
        assert mode == "negative"
        return
    assert tried
    assert all(status < 500 for status in tried)
