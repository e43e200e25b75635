"""The page in a browser, over a stub of the server: what people do with it, at the width of a desk and of a phone."""

from __future__ import annotations

import pytest

from desk import Desk
from lazily import Lazily
from stub_server import HOSTILE, Stub, drawn, serving

pytest.importorskip("playwright")
playwright = Lazily("playwright.sync_api")

WIDTHS = {"desk": (1280, 860), "phone": (390, 844)}
SEARCH_ZONE, ADD_ZONE = ".zone[data-use=search]", ".zone[data-use=add]"


@pytest.fixture
def stub():
    with serving(Stub()) as running:
        yield running


@pytest.fixture(params=sorted(WIDTHS))
def desk(request, browser, stub):
    width, height = WIDTHS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=width < 500, permissions=["microphone"]
    )
    opened = Desk(context.new_page(), stub)
    yield opened
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert opened.said == []
    assert wide == width


@pytest.fixture
def noisy(desk):
    """A page whose browser says on its console that a request has failed, and nothing else."""
    yield desk
    told = [line for line in desk.said if not line.startswith("Failed to load resource")]
    assert told == []
    assert desk.said
    desk.said.clear()


def test_it_shows_what_there_is_before_anything_is_asked(desk):
    page = desk.open()
    expect = playwright.expect
    expect(page.locator("#status")).to_have_text("9 items to search")
    expect(page.locator(".card")).to_have_count(9)
    expect(page.locator(".score")).to_have_count(0)
    assert page.locator("#modalities button").all_inner_texts() == [
        "Everything\n9",
        "Sounds\n2",
        "Pictures\n5",
        "Texts\n2",
    ]
    expect(page.locator("#add")).to_be_hidden()
    assert desk.stub.asked == []


def test_typing_searches_once_after_the_last_key_and_says_what_scores_mean(desk):
    page = desk.open()
    page.keyboard.press("/")
    page.keyboard.type("two dogs", delay=10)
    playwright.expect(page.locator("#status")).to_have_text("9 results, 12 ms")
    assert desk.stub.asked == [
        {"filter": None, "modality": None, "k": 24, "text": [{"value": "two dogs", "weight": 1}]}
    ]
    assert page.locator(".score").first.inner_text() == "1 in 10,000"
    assert "random items" in page.locator("#meaning").inner_text()
    assert page.url.endswith("#q=two+dogs")


def test_an_older_answer_never_replaces_a_newer_one(desk):
    page = desk.open()
    desk.stub.slow = "do"
    with page.expect_request("**/search") as older:
        page.fill("#text", "do")
    page.fill("#text", "dogs")
    playwright.expect(page.locator("#status")).to_have_text("9 results, 12 ms")
    page.wait_for_timeout(1200)
    assert page.locator("#status").inner_text() == "9 results, 12 ms"
    assert older.value.failure == "net::ERR_ABORTED"


def test_an_address_keeps_the_question(desk):
    page = desk.open("#q=two+dogs&modality=text&like=image%2Fpicture%201.png")
    playwright.expect(page.locator("#status")).to_have_text("2 results, 12 ms")
    assert page.input_value("#text") == "two dogs"
    [asked] = desk.stub.asked
    assert (asked["modality"], asked["like"]) == ("text", [{"id": "image/picture 1.png", "weight": 1}])


def test_names_and_columns_are_never_markup(desk):
    page = desk.open()
    assert page.locator(".card .name").first.inner_text() == HOSTILE
    assert page.locator(".metadata").first.inner_text() == "<b>train</b> · 2012"
    page.locator(".card .name").first.click()
    assert page.locator("#details h2").inner_text() == HOSTILE
    assert page.locator("img[src=x], .metadata b, dd b").count() == 0


def test_pictures_are_shown_and_sounds_play(desk):
    page = desk.open()
    playwright.expect(page.locator(".card img").first).to_have_js_property("naturalWidth", 96)
    page.click("[aria-label='Play bark 7.wav']")
    playwright.expect(page.locator("[aria-label='Position in bark 7.wav']")).not_to_have_value("0")


def test_a_dropped_picture_is_searched_with_and_can_be_turned_around(desk):
    page = desk.open()
    desk.drop(SEARCH_ZONE, "mine.png", "image/png", drawn(3))
    playwright.expect(page.locator(".part .label")).to_contain_text("mine.png")
    playwright.expect(page.locator(".score").first).to_be_visible()
    [picture] = desk.stub.asked[-1]["image"]
    assert picture["data"].startswith("data:image/png;base64,iVBOR")
    desk.find("dogs")
    with desk.searching():
        page.click(".part .turn")
    playwright.expect(page.locator(".part.minus")).to_be_visible()
    assert desk.stub.asked[-1]["minus"] == {"image": [picture]}
    assert desk.stub.asked[-1]["text"][0]["value"] == "dogs"


def test_a_dropped_file_of_another_kind_is_refused_in_words(desk):
    page = desk.open()
    desk.drop(SEARCH_ZONE, "table.csv", "text/csv", b"a,b")
    playwright.expect(page.locator("#notice")).to_contain_text("table.csv is text/csv; this index is searched with: ")
    assert desk.stub.asked == []


def test_a_recording_is_searched_with(desk):
    page = desk.open()
    page.click("#microphone")
    playwright.expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(600)
    page.click("#microphone")
    playwright.expect(page.locator(".part .label")).to_contain_text("recording")
    playwright.expect(page.locator(".score").first).to_be_visible()
    assert desk.stub.asked[-1]["audio"][0]["data"].startswith("data:audio/wav;base64,UklGR")


def test_filters_are_made_from_the_columns(desk):
    page = desk.open()
    if not page.locator("#facets").is_visible():
        page.click("#filters summary")
    page.check("text=train >> nth=1")
    page.check("label.choice:has-text('test')")
    page.fill("[aria-label='year from']", "2014")
    page.fill("[aria-label='Condition of your own']", "year < 2021")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status")).to_have_text("9 items fit the filter")
    page.wait_for_timeout(400)
    wanted = """("split" in ('test', 'train')) and ("year" >= 2014) and (year < 2021)"""
    assert desk.stub.listed[-1]["filter"] == wanted
    assert page.locator("#filters-count").inner_text() == "3"
    page.click(".clear")
    playwright.expect(page.locator("#filters-count")).to_have_text("")
    assert page.locator(".choice input:checked").count() == 0


def test_a_modality_is_chosen(desk):
    page = desk.open()
    desk.find("dogs")
    page.click("#modalities button:has-text('Texts')")
    playwright.expect(page.locator(".card")).to_have_count(2)
    assert desk.stub.asked[-1]["modality"] == "text"
    assert page.get_attribute("#modalities button:has-text('Texts')", "aria-pressed") == "true"


def test_more_like_this_asks_for_the_item_alone(desk):
    page = desk.open()
    desk.find("dogs")
    with desk.searching():
        page.click("[aria-label='More like picture 2.png']")
    playwright.expect(page.locator(".part .label")).to_contain_text("picture 2.png")
    assert desk.stub.asked[-1]["like"] == [{"id": "image/picture 2.png", "weight": 1}]
    assert "text" not in desk.stub.asked[-1]
    assert page.input_value("#text") == ""


def test_keys_lead_from_the_box_through_the_results_and_back(desk):
    page = desk.open()
    focused = "document.activeElement.closest('.card')?.dataset.id ?? document.activeElement.id"
    desk.find("dogs")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "image/picture 1.png"
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#details h2")).to_have_text("picture 1.png")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#details")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    across = 4 if page.viewport_size["width"] > 1000 else 2
    assert page.evaluate(focused) == desk.stub.items[1 + across]["id"]
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "text"
    page.keyboard.press("Escape")
    assert page.input_value("#text") == ""


def test_a_click_on_the_map_finds_neighbours(desk):
    desk.stub.points = [[0.0, 0.0], *[[n, (-1) ** n] for n in range(-4, 5) if n]]
    page = desk.open()
    page.click("#map-toggle")
    playwright.expect(page.locator("#map-canvas")).to_have_attribute("data-points", "9")
    assert page.locator("#map-legend li").all_inner_texts() == ["image", "text", "audio"]
    page.wait_for_timeout(200)
    box = page.locator("#map-canvas").bounding_box()
    with desk.searching():
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    playwright.expect(page.locator(".part .label")).to_contain_text(HOSTILE)
    assert desk.stub.asked[-1]["like"] == [{"id": f"image/{HOSTILE}", "weight": 1}]


def test_the_map_is_moved_by_keys_and_coloured_by_a_column(desk):
    desk.stub.points = [[float(n), 0.0] for n in range(9)]
    page = desk.open()
    page.click("#map-toggle")
    playwright.expect(page.locator("#map-canvas")).to_have_attribute("data-points", "9")
    page.select_option("#map-colour", label="split")
    assert page.locator("#map-legend li").all_inner_texts() == ["train", "test", "<b>train</b>"]
    page.wait_for_timeout(200)
    page.locator("#map-canvas").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".part .label")).to_contain_text("bark 8.wav")


def test_a_map_of_many_points_is_drawn_in_their_colours(desk):
    stub = desk.stub
    few = stub.map() | {"columns": {}}
    count = 20_000
    points = [[n % 200, n // 200] for n in range(count)]
    numbers = [n % 200 // 100 for n in range(count)]
    ids = [str(n) for n in range(count)]
    stub.map = lambda: few | {"points": points, "ids": ids, "modality": numbers, "modalities": ["left", "right"]}
    page = desk.open()
    page.click("#map-toggle")
    playwright.expect(page.locator("#map-canvas")).to_have_attribute("data-points", str(count))
    page.wait_for_timeout(300)
    seen = page.evaluate("""() => {
      const canvas = document.getElementById("map-canvas");
      const pen = canvas.getContext("2d");
      const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
      const reds = { left: [], right: [] };
      for (let i = 0; i < data.length; i += 4) {
        const across = ((i / 4) % canvas.width) / canvas.width;
        if (data[i + 3] && Math.abs(across - 0.5) > 0.02) reds[across < 0.5 ? "left" : "right"].push(data[i]);
      }
      return [new Set(reds.left), new Set(reds.right)].map((side) => [...side]);
    }""")
    assert seen == [[pytest.approx(0x0B, abs=2)], [pytest.approx(0xD2, abs=2)]]


def test_nothing_here_matches_is_said_above_the_nearest(desk):
    desk.stub.nothing = True
    page = desk.open()
    desk.find("a tax form")
    playwright.expect(page.locator("#notice strong")).to_have_text("Nothing here matches")
    playwright.expect(page.locator(".card")).to_have_count(9)


def test_an_empty_result_says_what_to_do(desk):
    page = desk.open()
    desk.stub.empty = True
    page.fill("#text", "dogs")
    playwright.expect(page.locator("#status")).to_have_text("No results")
    playwright.expect(page.locator("#notice")).to_contain_text("Try other words.")
    page.click("#modalities button:has-text('Texts')")
    page.click("text=Find everything")
    playwright.expect(page.locator("#modalities button").first).to_have_attribute("aria-pressed", "true")


def test_an_error_of_the_server_is_shown_in_its_words_and_can_be_tried_again(noisy):
    page = noisy.open()
    noisy.stub.failure = (400, "a filter of <b>no</b> use")
    page.fill("#text", "dogs")
    playwright.expect(page.locator("#notice strong")).to_have_text("The server cannot answer this")
    assert page.locator("#notice p").inner_text() == "A filter of <b>no</b> use"
    noisy.stub.failure = None
    page.click("text=Try again")
    playwright.expect(page.locator("#status")).to_have_text("9 results, 12 ms")
    assert page.locator("#notice").inner_text() == ""


def test_offline_is_said_and_ends_by_itself(noisy):
    page = noisy.open()
    page.context.set_offline(True)
    page.fill("#text", "dogs")
    playwright.expect(page.locator("#notice strong")).to_have_text("You are offline.")
    page.context.set_offline(False)
    playwright.expect(page.locator("#status")).to_have_text("9 results, 12 ms")


def test_a_busy_server_is_asked_again(noisy):
    page = noisy.open()
    noisy.stub.busy = 1
    noisy.find("dogs")
    assert len(noisy.stub.asked) == 2
    assert page.locator("#notice").inner_text() == ""


def test_a_key_is_asked_for_once_and_sent_with_everything(noisy):
    noisy.stub.key = "secret"
    page = noisy.page
    page.goto(noisy.stub.url)
    page.fill("#key-value", "secret")
    page.click("text=Continue")
    playwright.expect(page.locator(".card")).to_have_count(9)
    playwright.expect(page.locator(".card img").first).to_have_js_property("naturalWidth", 96)
    assert page.evaluate("sessionStorage.getItem('lightcrl-key')") == "secret"


def test_files_are_added_by_drop_where_that_is_allowed(desk):
    desk.stub.writable = True
    page = desk.open()
    desk.drop(ADD_ZONE, "new.png", "image/png", drawn(5))
    playwright.expect(page.locator("#notice strong")).to_have_text("0 added")
    assert page.locator("#notice p").inner_text() == "1 not added: new.png: no picture"
    assert desk.stub.added == ["new.png"]


def test_a_drop_never_adds_where_that_is_not_allowed(desk):
    page = desk.open()
    desk.drop(ADD_ZONE, "new.png", "image/png", drawn(5))
    playwright.expect(page.locator(".part .label")).to_contain_text("new.png")
    assert desk.stub.added == []


def test_an_item_is_removed_after_a_second_press(desk):
    desk.stub.writable = True
    page = desk.open()
    page.click("[aria-label='About picture 1.png']")
    page.click("text='Remove'")
    assert desk.stub.removed == []
    page.click("text=Remove from the index for good?")
    playwright.expect(page.locator("#details")).to_be_hidden()
    assert desk.stub.removed == ["image/picture 1.png"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_nothing_to_say(desk, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    desk.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page = desk.open()
    desk.find("dogs")
    page.click("[aria-label='More like picture 2.png']")
    page.click("#map-toggle")
    if not page.locator("#facets").is_visible():
        page.click("#filters summary")
    playwright.expect(page.locator("#map-canvas")).to_have_attribute("data-points", "9")
    broken = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], node["html"], node["failureSummary"]) for rule in broken for node in rule["nodes"]] == []
    page.locator(".card .name").first.click()
    broken = axe.Axe().run(page, context="#details").response["violations"]
    assert [(rule["id"], node["html"], node["failureSummary"]) for rule in broken for node in rule["nodes"]] == []
