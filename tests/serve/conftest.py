from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from desk import FLAGS
from pages import BROWSERS
from served import served_with
from shelves import make_embedder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on PATH; looked for {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


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
