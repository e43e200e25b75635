"""Weights, copies and outliers in the page, and the page of the interface, in a browser over a stub of the server."""

from __future__ import annotations

import threading
import time

import pytest

from desk import Desk
from served import fill
from stub_server import Stub, drawn, serving

playwright = pytest.importorskip("playwright.sync_api")

WIDTHS = {"desk": (1280, 860), "phone": (390, 844)}
PLAIN = ("id", "modality", "kind", "path", "text", "metadata", "content")


class Views(Stub):
    """A stub that has two copies and an outlier."""

    def listing(self, asked):
        status, answer = super().listing(asked)
        plain = {item["id"]: {name: item[name] for name in PLAIN} for item in self.items}
        pair = ["image/picture 1.png", "image/picture 3.png"]
        if asked.get("limit") is None:
            side = {"modality": "image", "threshold": 0.98, "reason": "chosen from the data", "groups": [pair]}
            far = {"id": "audio/bark 7.wav", "modality": "audio", "farness": 0.7321, "limit": 0.5}
            answer = {"duplicates": [side], "outliers": [far], "items": plain}
        return status, answer


@pytest.fixture
def stub(monkeypatch):
    stub = Views()
    from stub_server import Handler

    own = Handler.do_GET

    def get(handler):
        path, _, asked = handler.path.partition("?")
        if path in ("/duplicates", "/outliers"):
            words = dict(part.split("=") for part in asked.split("&") if part)
            return handler.json(*handler.stub.listing(words))
        return own(handler)

    monkeypatch.setattr(Handler, "do_GET", get)
    plain = Stub.listing
    monkeypatch.setattr(Stub, "listing", lambda self, asked: plain(self, {"limit": "24", **asked}))
    with serving(stub) as running:
        yield running


@pytest.fixture(params=sorted(WIDTHS))
def desk(request, browser, stub):
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    opened = Desk(context.new_page(), stub)
    yield opened
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert opened.said == []
    assert wide == width


def violations(page) -> list[tuple[str, str]]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    broken = axe.Axe().run(page).response["violations"]
    return [(rule["id"], node["html"]) for rule in broken for node in rule["nodes"]]


def test_a_part_has_a_weight_beside_the_words(desk):
    page = desk.open()
    desk.find("dogs")
    desk.drop(".zone[data-use=search]", "mine.png", "image/png", drawn(3))
    weight = page.locator("[aria-label='Weight of mine.png']")
    playwright.expect(page.locator(".part output")).to_have_text("×1.0")
    weight.focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.className") == "weight"
    playwright.expect(page.locator(".part output")).to_have_text("×2.5")
    page.wait_for_timeout(300)
    playwright.expect(page.locator("#hits")).to_have_attribute("aria-busy", "false")
    asked = desk.stub.asked[-1]
    assert (asked["image"][0]["weight"], asked["text"][0]["weight"]) == (2.5, 1)
    assert violations(page) == []


def test_copies_are_shown_in_groups_until_something_is_asked(desk):
    page = desk.open()
    page.click("#copies-toggle")
    playwright.expect(page.locator("#status")).to_have_text("1 group of copies")
    playwright.expect(page.locator(".group .card")).to_have_count(2)
    assert page.locator(".group h2").inner_text() == "2 copies"
    assert page.locator("#meaning").inner_text() == "image: from 0.9800 alike, chosen from the data"
    assert page.url.endswith("#view=copies")
    assert violations(page) == []
    page.reload()
    playwright.expect(page.locator(".group .card")).to_have_count(2)
    desk.find("dogs")
    playwright.expect(page.locator(".group")).to_have_count(0)
    playwright.expect(page.locator("#copies-toggle")).to_have_attribute("aria-pressed", "false")


def test_outliers_are_shown_with_their_farness_and_the_button_leads_back(desk):
    page = desk.open()
    page.click("#outliers-toggle")
    playwright.expect(page.locator("#status")).to_have_text("1 outlier, the farthest first")
    assert page.locator(".card .score").inner_text() == "farness 0.732"
    assert violations(page) == []
    page.click("#outliers-toggle")
    playwright.expect(page.locator("#status")).to_have_text("9 items to search")


@pytest.fixture(scope="module")
def address(tmp_path_factory, embedder):
    """The real server, on a port."""
    import uvicorn

    from lightcrl.serve.app import make_app
    from lightcrl.serve.service import Service, Settings

    service = Service(fill(tmp_path_factory.mktemp("interface"), embedder), Settings())
    server = uvicorn.Server(uvicorn.Config(make_app(service), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not (server.started and service._ready.is_set()):
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("width", sorted(WIDTHS))
def test_the_page_of_the_interface_loads_nothing_from_elsewhere_and_asks_the_server(browser, address, width):
    context = browser.new_context(viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)))
    page, said, loaded = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(f"{address}/docs")
    playwright.expect(page.locator(".endpoint")).to_have_count(16)
    page.click(".endpoint:has(.path:text-is('/search')) summary")
    search = page.locator(".endpoint[open]")
    assert "two dogs" in search.locator("textarea").input_value()
    assert search.locator("tr:has-text('Number of results.')").inner_text().split("\t")[:2] == [
        "k",
        "whole number, 1 to 1000",
    ]
    search.locator("button").click()
    playwright.expect(search.locator(".answer pre").first).to_have_text("200 OK")
    playwright.expect(search.locator(".answer pre").nth(1)).to_contain_text('"id": "t0"')
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width][0]
    assert said == []
    assert all(url.startswith((address, "blob:")) for url in loaded)
    context.close()
