"""The commands around an index, as a user types them, and the page of a search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.features import FeatureStore
from lightcrl.index import Index
from pages import Page, browse


@pytest.fixture(scope="module")
def world(small_run, tmp_path_factory):
    """A small run, and an index of its pictures in a folder and of its table."""
    index = tmp_path_factory.mktemp("index") / "all.index"
    sources = (small_run.folder / "world" / "images", small_run.folder / "world" / "groups.jsonl")
    built = call("index", "build", small_run.run, *sources, "--output", index)
    return SimpleNamespace(folder=small_run.folder, run=small_run.run, index=index, built=built)


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def as_json(*words: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, words), "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_building_says_what_came_of_it_and_building_again_encodes_nothing(world):
    assert "90 already present; 360 encoded" in " ".join(world.built.split())
    assert "90 image, 270 text" in world.built
    images = world.folder / "world" / "images"
    again = as_json("index", "build", world.run, images, "--output", world.index)
    assert again == {"added": 0, "replaced": 0, "present": 90, "encoded": 0, "items": 360, "rejected": []}


def test_a_run_s_own_stores_are_indexed_without_encoding(world, tmp_path, monkeypatch):
    from lightcrl.features import encoding

    monkeypatch.setattr(encoding, "_prepare_one", lambda encoder, item: pytest.fail(f"{item.source} was encoded"))
    done = as_json("index", "build", world.run, world.run, "--output", tmp_path / "i")
    assert (done["added"], done["encoded"]) == (done["items"], 0)
    index = Index.open(tmp_path / "i")
    assert index.counts()["image"] == 90
    assert set(index.ids("split = 'dev'")) | set(index.ids("split = 'train'")) == set(index.ids())
    texts = index.ids(modality="text")[:5]
    monkeypatch.undo()
    encoded = index.embedder.encode([index.get(id).text for id in texts], "text")
    np.testing.assert_allclose(index.vectors(texts), encoded, atol=2e-3)  # stores keep float16
    stores = [path for path in (world.folder / "features").iterdir() if path.name.startswith("image-")]
    (store,) = [path for path in stores if FeatureStore(path).rows == 90]
    assert as_json("index", "add", tmp_path / "i", store)["encoded"] == 0


def test_what_embed_wrote_is_added_and_that_of_another_model_refused(world, tmp_path):
    call("embed", world.run, world.folder / "world" / "images", "--modality", "image", "--output", tmp_path / "v.npy")
    call("index", "build", world.run, tmp_path / "v.npy", "--output", tmp_path / "i")
    assert len(Index.open(tmp_path / "i")) == 90
    told = json.loads((tmp_path / "v.json").read_text())
    (tmp_path / "v.json").write_text(json.dumps({**told, "model": "f" * 32}))
    assert "have nothing in common" in call("index", "add", tmp_path / "i", tmp_path / "v.npy", code=1)
    (tmp_path / "v.json").unlink()
    assert "Make both with lightcrl embed" in call("index", "add", tmp_path / "i", tmp_path / "v.npy", code=1)


def test_recall_against_an_index_is_that_of_its_items_in_memory(world):
    words = ("evaluate", "retrieval", world.run, "--data", world.folder / "world" / "groups.jsonl")
    memory, index = as_json(*words), as_json(*words, "--index", world.index)
    for name in ("image_to_text/recall@1", "text_to_image/recall@10", "mean_recall@1"):
        assert index["metrics"][name] == pytest.approx(memory["metrics"][name], abs=0.01)  # the index keeps float16
    assert index["counts"] == memory["counts"]
    part = as_json(*words, "--index", world.index, "--filter", "path like '%7.%'")
    assert list(part["counts"]) == [f"text_to_image/{name}" for name in ("queries", "gallery", "unanswered")]
    assert part["counts"]["text_to_image/queries"] == 3 * part["counts"]["text_to_image/gallery"] == 27
    assert "expected --index" in call(*words, "--filter", "split = 'dev'", code=2)
    assert "rerank needs the tokens of the gallery" in call(*words, "--index", world.index, "--rerank", 4, code=1)


def test_info_says_what_is_in_it(world):
    said = call("index", "info", world.index)
    for words in ("360 items", "90 image, 270 text", "exact, float16, d 48", "text to image (items of the index)"):
        assert words in said
    told = as_json("index", "info", world.index)
    assert told["modalities"] == {"image": 90, "text": 270}
    assert told["columns"] == ["audio"]
    assert told["model"]["place"] == str(world.run)
    assert told["set_aside"] == []


def test_a_search_prints_hits_with_their_odds(world):
    said = call("search", world.index, "a red circle", "-k", 3, "--modality", "text")
    assert '"a red circle"' in said
    assert len(re.findall(r"1 in [\d,]+|\d+%", said)) >= 3
    told = as_json("search", world.index, "a red circle", "-k", 3, "--modality", "text")
    index = Index.open(world.index)
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in index.search("a red circle", modality="text", k=3)]
    assert told["query"] == {"text": [{"item": "a red circle", "weight": 1.0}]}
    assert told["matches"] in (True, False)
    assert set(told["hits"][0]) == {"id", "score", "share", "modality", "path", "text", "metadata", "preview"}


def test_weights_minus_like_and_filters_are_those_of_python(world):
    from lightcrl.index import Part

    picture = world.folder / "world" / "images" / "000001.png"
    words = ("--image", f"{picture}^2", "--text", "red^.5", "--minus", "blue^0.25", "--minus-image", picture)
    told = as_json("search", world.index, *words, "--like", "000002.png", "--filter", "audio is null", "-k", 4)
    expected = Index.open(world.index).search(
        Part("red", 0.5),
        image=Part(picture, 2),
        like="000002.png",
        minus=[Part("blue", 0.25), Part(picture, kind="image")],
        where="audio is null",
        k=4,
    )
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in expected]
    assert told["filter"] == "audio is null"
    assert "nothing fits the filter" in call("search", world.index, "x", "--filter", "id = 'nobody'")
    assert "which filters may not use" in call("search", world.index, "x", "--filter", "load_extension('x')", code=1)
    assert "nothing is asked for" in call("search", world.index, code=1)


@pytest.mark.parametrize("width", [1280, 380])
def test_the_page_shows_pictures_texts_and_the_question(world, tmp_path, width):
    picture = world.folder / "world" / "images" / "000001.png"
    call("search", world.index, "a <red> circle", "--image", picture, "-k", 12, "--page", tmp_path / "p" / "page.html")
    html = (tmp_path / "p" / "page.html").read_text()
    page = Page(html)
    hits = Index.open(world.index).search("a <red> circle", image=picture, k=12)
    pictures = sum(hit.modality == "image" for hit in hits)
    assert page.count("img") == pictures + 1
    assert page.count("li") == 12 + 2
    assert "a <red> circle" in page.text
    assert all(source and source.startswith("data:") for tag, given in page.tags if (source := given.get("src")))
    assert not re.search(r"https?://", html)
    for hit in hits:
        assert hit.id in page.text
    browse(html, tmp_path, width)


def test_open_shows_the_page_in_the_browser(world, monkeypatch):
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    call("search", world.index, "a red circle", "--open")
    (place,) = shown
    assert "a red circle" in Path(place.removeprefix("file://")).read_text()


def test_removing_compacting_and_looking_for_structure(world, tmp_path):
    index = tmp_path / "i"
    call("index", "build", world.run, world.folder / "world" / "images", "--output", index, "--dtype", "float32")
    assert "expected ids or --filter" in call("index", "remove", index, code=2)
    assert "2 removed, 88 left" in call("index", "remove", index, "000001.png", "--filter", "id = '000002.png'")
    assert "no item '000001.png'" in call("index", "remove", index, "000001.png", code=1)
    assert "2 removed items dropped" in call("index", "compact", index)
    assert as_json("index", "info", index)["removed"] == 0
    copies = as_json("index", "duplicates", index, "--threshold", "0.9999")["duplicates"]
    assert [one["modality"] for one in copies] == ["image"]
    assert "groups of near-identical items" in call("index", "duplicates", index)
    assert len(as_json("index", "outliers", index, "-n", 3)["outliers"]) == 3
    assert "3 items far from all others" in call("index", "outliers", index, "-n", 3)


def test_a_model_that_has_moved_is_named(world, tmp_path):
    index = tmp_path / "i"
    moved = tmp_path / "moved"
    lightcrl.load(world.run).checkpoint.save(moved)
    call("index", "build", moved, world.folder / "world" / "images", "--output", index)
    moved.rename(tmp_path / "elsewhere")
    assert "no checkpoint" in call("search", index, "a circle", code=1)
    assert as_json("search", index, "a circle", "--model", tmp_path / "elsewhere", "-k", 1)["hits"]
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    added = as_json("index", "add", index, tmp_path / "lines.txt", "--model", tmp_path / "elsewhere")
    assert added["added"] == 2


def test_the_engine_lancedb_takes_its_options_from_the_command_line(world, tmp_path):
    words = ("--engine", "lancedb", "--option", "index=ivf_sq", "--option", "probes=7")
    images = world.folder / "world" / "images"
    call("index", "build", world.run, images, "--output", tmp_path / "i", *words)
    engine = as_json("index", "info", tmp_path / "i")["engine"]
    assert (engine["name"], engine["options"]["index"], engine["options"]["probes"]) == ("lancedb", "ivf_sq", 7)
    hits = as_json("search", tmp_path / "i", "--like", images / "000003.png", "-k", 5)["hits"]
    exact = as_json("search", world.index, "--like", images / "000003.png", "-k", 5, "--modality", "image")["hits"]
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in exact]
