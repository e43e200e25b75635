from __future__ import annotations

from contextlib import ExitStack

import pytest

from served import served_with
from shelves import make_embedder


@pytest.fixture(scope="session")
def embedder():
    return make_embedder(kinds=("text", "image", "audio"))


@pytest.fixture
def serving(tmp_path, embedder):
    """Starts a server of an index made anew."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(served_with(tmp_path, embedder, **settings))


@pytest.fixture(scope="session")
def shared(tmp_path_factory, embedder):
    """One server for tests that change nothing."""
    with served_with(tmp_path_factory.mktemp("served"), embedder) as served:
        yield served
