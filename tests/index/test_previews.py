"""Items without a file: the index stores a small picture or sound of them, or a reference to the run that has them."""

from __future__ import annotations

import io
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lightcrl
from lightcrl.data.base import Item
from lightcrl.data.synthetic.source import Made, nth_scene, seed_of
from lightcrl.index import Entry, Index
from lightcrl.index.previews import OF_RUN, PIXELS
from lightcrl.recipe import make_recipe
from recipes import builtin
from shelves import make_embedder

GROUPS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on the generated world, with three captions of each picture."""
    folder = tmp_path_factory.mktemp("generated")
    table = {
        "name": "generated",
        "output": str(folder / "run"),
        "data": {"source": "synthetic", "dev_fraction": 0.25, "options": {"groups": GROUPS}},
        "encoders": {kind: builtin(kind) for kind in ("image", "text", "audio")},
        "features": {"folder": str(folder / "features")},
        "method": {"name": "linear", "dim": 16},
        "training": {"epochs": 1, "batch_size": 16, "tensorboard": False},
    }
    return lightcrl.run(make_recipe(table)).folder


@pytest.fixture(scope="module")
def index(run, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("index") / "index", run)
    index.add(run)
    return index


def test_an_index_of_a_run_has_every_caption_and_shows_every_picture_and_sound(index):
    counts = index.counts()
    assert (counts["image"], counts["audio"]) == (GROUPS, GROUPS)
    assert counts["text"] > 2 * GROUPS
    texts = [index.get(id) for id in index.ids(modality="text")]
    assert {"scene-000003", "scene-000003#2"} <= {record.id for record in texts}
    assert all(record.text and not record.preview for record in texts)
    pictures = [index.get(id) for id in index.ids(modality="image")]
    assert all(record.preview and record.path is None for record in pictures)


def test_a_picture_of_a_run_is_the_run_s_own(index):
    preview = index.preview("scene-000007.image")
    assert preview is not None
    assert preview.media == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(preview.data)), dtype=float)
    made = Made("image", nth_scene(0, 7), seed_of("image", 0, 7))()
    np.testing.assert_allclose(shown.mean((0, 1)), np.asarray(made.convert("RGB"), dtype=float).mean((0, 1)), atol=3)


def test_a_sound_of_a_run_is_a_wave_file(index):
    soundfile = pytest.importorskip("soundfile")
    preview = index.preview("scene-000007.audio")
    assert preview is not None
    assert preview.media == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(preview.data))
    made, its_rate = Made("audio", nth_scene(0, 7), seed_of("audio", 0, 7))()
    assert rate == its_rate
    np.testing.assert_allclose(samples, made, atol=1e-4)


def test_a_picture_in_memory_is_stored_small_and_leaves_with_its_item(tmp_path):
    index = Index.create(tmp_path / "index", make_embedder())
    pixels = np.full((300, 900, 3), (250, 10, 10), dtype=np.uint8)
    index.add([index.entry(pixels, "image", id="red"), index.entry("a text", "text", id="text")])
    preview = index.preview("red")
    assert preview is not None
    image = Image.open(io.BytesIO(preview.data))
    assert image.size == (PIXELS, round(PIXELS / 3))
    np.testing.assert_allclose(np.asarray(image)[40, 120], (250, 10, 10), atol=4)
    (hit,) = index.search_vectors(index.vectors(["red"]), 1)[0]
    assert (hit.id, hit.preview, hit.to_json()["preview"]) == ("red", True, True)
    assert index.preview("text") is None
    index.remove(["red"])
    with sqlite3.connect(index.folder / "catalog.db") as connection:
        assert connection.execute("SELECT count(*) FROM previews").fetchone() == (0,)
    connection.close()


def test_items_of_an_index_without_previews_get_theirs_when_added_again(run, tmp_path):
    index = Index.create(tmp_path / "index", run)
    index.add(run)
    with sqlite3.connect(index.folder / "catalog.db") as connection:
        connection.execute("DROP TABLE previews")
    connection.close()
    older = Index.open(index.folder)
    assert not older.get("scene-000001.image").preview
    assert older.preview("scene-000001.image") is None
    done = older.add(run)
    assert (done.added, done.replaced) == (0, 0)
    assert older.get("scene-000001.image").preview
    assert older._catalog.preview(1).media == OF_RUN


def test_a_run_that_is_gone_shows_nothing_and_breaks_nothing(run, tmp_path):
    index = Index.create(tmp_path / "index", run)
    gone = Entry("image", Item("key", "gone", None), "gone", vector=np.eye(16)[0], run=str(Path(tmp_path) / "nowhere"))
    index.add([gone])
    assert index.get("gone").preview
    assert index.preview("gone") is None


def test_the_page_of_a_search_shows_pictures_of_a_run(index, run, tmp_path):
    pytest.importorskip("jinja2")
    from typer.testing import CliRunner

    from lightcrl.cli import app

    page = tmp_path / "page.html"
    words = ["search", str(index.folder), "a red heart", "--modality", "image", "-k", "3", "--page", str(page)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert page.read_text(encoding="utf-8").count('src="data:image/jpeg;base64,') == 3


def test_the_server_gives_the_content_of_items_of_a_run(index, tmp_path):
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from lightcrl.serve.app import make_app
    from lightcrl.serve.service import Service, Settings
    from served import wait_until_ready

    shutil.copytree(index.folder, tmp_path / "index")
    with TestClient(make_app(Service(Index.open(tmp_path / "index"), Settings()))) as client:
        wait_until_ready(client.get)
        body = {"text": "a red heart", "modality": "image", "k": 1}
        (hit,) = client.post("/search", json=body).json()["hits"]
        answer = client.get(hit["content"], params={"size": 48})
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(answer.content)).size) == 48
        sound = client.get("/items/scene-000002.audio/content")
        assert (sound.headers["content-type"], sound.content[:4]) == ("audio/wav", b"RIFF")
        part = client.get("/items/scene-000002.audio/content", headers={"Range": "bytes=8-11"})
        assert (part.status_code, part.content) == (206, b"WAVE")
        assert part.headers["content-range"] == f"bytes 8-11/{len(sound.content)}"
