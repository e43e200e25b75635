"""An index of files, texts and tables: what is added, replaced, set aside, found, composed and said of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightcrl.errors import (
    DataError,
    EmptyDatasetError,
    ItemError,
    ModalityError,
    QueryError,
    StoreError,
    TornStoreError,
    UnknownNameError,
)
from lightcrl.files.locks import in_turn
from lightcrl.index import Index, Part, Reading
from shelves import make_embedder, picture


@pytest.fixture(scope="module")
def model():
    return make_embedder()


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        picture(tmp_path / "photos" / ("dogs" if number % 2 else "cats") / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def index(model, tmp_path) -> Index:
    return Index.create(tmp_path / "index", model)


def counts(done) -> tuple[int, int, int, int, int]:
    return done.added, done.replaced, done.present, done.encoded, len(done.rejected)


def test_a_folder_of_photographs_is_encoded_once_and_changes_are_replaced(index, photos, model):
    (photos / "notes.md").write_text("not a picture")
    (photos / "cats" / "broken.png").write_bytes(b"no picture")
    (photos / ".hidden.png").write_bytes(b"x")
    done = index.add(photos)
    assert counts(done) == (6, 0, 0, 6, 2)
    assert {(one.source, one.reason) for one in done.rejected} == {
        ("notes.md", "not a picture or sound"), ("cats/broken.png", "unreadable image")
    }  # fmt: skip
    assert sorted(map(str, index.aside())) == sorted(map(str, done.rejected))
    assert counts(index.add(photos)) == (0, 0, 6, 0, 2)

    os.utime(photos / "cats" / "0.png", ns=(1, 1))  # touched, the same content
    assert counts(index.add(photos)) == (0, 0, 6, 0, 2)
    picture(photos / "cats" / "0.png", 77)
    picture(photos / "cats" / "broken.png", 78)
    shutil.copy(photos / "cats" / "2.png", photos / "cats" / "copy.png")
    assert counts(index.add(photos)) == (2, 1, 5, 2, 1)
    assert len(index.aside()) == 1
    np.testing.assert_allclose(
        index.vectors(["cats/0.png", "cats/copy.png"]),
        model.encode([photos / "cats" / "0.png", photos / "cats" / "2.png"], "image"),
        atol=1e-3,
    )
    record = index.get("dogs/1.png")
    assert (record.modality, record.path, record.text) == ("image", str(photos / "dogs" / "1.png"), None)
    assert record.metadata == {"folder": "dogs"}
    assert index.get(str(photos / "dogs" / "1.png")) == record


def test_files_of_the_same_name_in_two_folders_have_two_ids(index, tmp_path):
    for folder in ("one", "two"):
        picture(tmp_path / folder / "a.png", len(folder))
        picture(tmp_path / folder / "more" / "a.png", 5)
        index.add(tmp_path / folder)
    assert sorted(index.ids()) == ["a.png", "more/a.png", "two/a.png", "two/more/a.png"]
    # Only files in a folder below have one.
    assert sorted(index.ids("folder is null")) == ["a.png", "two/a.png"]


def test_a_table_gives_its_columns_as_metadata(index, photos, tmp_path):
    (tmp_path / "catalogue.csv").write_text(
        "image,caption,year,price,code,split\n"
        "photos/cats/0.png,a cat,2019,2.5,007,train\n"
        "photos/dogs/1.png,a dog,2021,3,008,dev\n"
        "photos/missing.png,nothing,2022,3,009,dev\n"
        "photos/cats/2.png,,2023,,010,train\n"
    )
    done = index.add(tmp_path / "catalogue.csv", reading=Reading({"image": "image", "text": "caption"}))
    assert counts(done) == (6, 0, 0, 6, 1)  # three pictures and three captions
    assert done.rejected[0].reason == "missing file"
    assert index.get("photos/dogs/1.png").metadata == {"year": 2021, "price": 3, "code": "008", "split": "dev"}
    assert index.get("catalogue.csv:2").text == "a cat"
    assert index.ids("year > 2020 and split = 'dev'", "image") == ["photos/dogs/1.png"]
    assert index.ids("price is null", "image") == ["photos/cats/2.png"]
    assert index.ids("typeof(price) = 'real'", "text") == ["catalogue.csv:2"]
    found = index.search("a cat", k=1, modality="text")[0]
    assert (found.id, found.text, found.metadata["year"]) == ("catalogue.csv:2", "a cat", 2019)

    table = (tmp_path / "catalogue.csv").read_text()
    (tmp_path / "catalogue.csv").write_text(table.replace("2019", "1999").replace("a dog", "two dogs"))
    done = index.add(tmp_path / "catalogue.csv", reading=Reading({"image": "image", "text": "caption"}))
    assert counts(done) == (0, 1, 5, 1, 1)
    assert index.get("photos/cats/0.png").metadata["year"] == 1999
    assert index.get("catalogue.csv:3").text == "two dogs"


def test_ids_of_a_column_name_items_wherever_they_stand(index, tmp_path):
    rows = [{"key": f"k{n}", "text": f"text number {n}", "ID": n, "tags": ["a", n]} for n in range(5)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert counts(index.add(tmp_path / "t.jsonl", reading=Reading(id_column="key"))) == (5, 0, 0, 5, 0)
    assert index.get("k3").metadata == {"key": "k3", "ID_": 3, "tags": '["a", 3]'}
    (tmp_path / "u.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    assert counts(index.add(tmp_path / "u.jsonl", reading=Reading(id_column="key"))) == (0, 0, 5, 0, 0)
    rows[2]["text"] = "changed"
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "no key"}]))
    done = index.add(tmp_path / "t.jsonl", reading=Reading(id_column="key"))
    assert counts(done) == (0, 1, 4, 1, 1)
    assert done.rejected[0].reason == "no id"
    assert len(index) == 5


def test_pictures_in_parquet_and_lines_of_texts(index, tmp_path):
    pictures = [picture(tmp_path / f"{n}.png", n).read_bytes() for n in range(3)]
    column = pa.array([{"bytes": data, "path": None} for data in pictures])
    pq.write_table(pa.table({"image": column, "year": [1, 2, 3]}), tmp_path / "t.parquet")
    assert counts(index.add(tmp_path / "t.parquet")) == (3, 0, 0, 3, 0)
    assert index.search(image=pictures[1], k=1)[0].metadata == {"year": 2}
    assert counts(index.add(tmp_path / "t.parquet")) == (0, 0, 3, 0, 0)
    (tmp_path / "lines.txt").write_text("one\n\ntwo words\n")
    assert counts(index.add(tmp_path / "lines.txt")) == (2, 0, 0, 2, 0)
    assert index.ids(modality="text") == ["lines.txt:1", "lines.txt:3"]
    assert counts(index.add(tmp_path / "0.png")) == (1, 0, 0, 1, 0)


def test_what_cannot_be_a_source_is_refused(index, tmp_path, photos):
    with pytest.raises(DataError, match=r"is not there\. Did you mean 'photos'"):
        index.add(tmp_path / "photo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyDatasetError, match="has no items"):
        index.add(tmp_path / "empty")
    (tmp_path / "t.csv").write_text("picture,words\nphotos/cats/0.png,a cat\n")
    with pytest.raises(ModalityError, match="--column image=COLUMN"):
        index.add(tmp_path / "t.csv")
    with pytest.raises(ModalityError, match="no modality 'sound'"):
        index.add(tmp_path / "t.csv", reading=Reading({"sound": "words"}))
    with pytest.raises(ModalityError, match="no modality 'sound'"):
        index.add(photos, reading=Reading(modality="sound"))
    with pytest.raises(ModalityError, match="no modality 'sound'"):
        index.entry("x", "sound")
    with pytest.raises(DataError, match="has no name"):
        index.entry(np.zeros((8, 8, 3), np.uint8), "image")
    with pytest.raises(DataError, match="the id is ''"):
        index.add([index.entry("a text", "text", id="")])
    assert len(index) == 0


def test_entries_of_one_s_own_are_added(index):
    grey = np.full((16, 16, 3), 90, np.uint8)
    done = index.add([index.entry("a text", "text", metadata={"n": True}), index.entry(grey, "image", id="grey")])
    assert counts(done) == (2, 0, 0, 2, 0)
    assert index.search(image=grey, k=1, modality="image")[0].id == "grey"
    assert index.search("a text", k=1)[0].metadata == {"n": 1}


def test_sounds_are_indexed_and_found_by_sounds(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(16_000) / 16_000
    for pitch in (220, 440, 880):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "sounds" / f"{pitch}.wav", 0.3 * np.sin(2 * np.pi * pitch * time), 16_000)
    index = Index.create(tmp_path / "index", make_embedder(kinds=("text", "audio")))
    assert counts(index.add(tmp_path / "sounds")) == (3, 0, 0, 3, 0)
    hits = index.search(audio=tmp_path / "sounds" / "440.wav", k=3)
    assert (hits[0].id, hits[0].modality) == ("440.wav", "audio")
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert index.search(audio=(np.sin(2 * np.pi * 880 * time) * 0.3, 16_000), k=1)[0].id == "880.wav"
    assert len(index.search("a high tone", k=5)) == 3


def test_queries_are_sums_of_weighted_parts(index, photos, model):
    index.add(photos)
    index.add([index.entry(text, "text", id=text) for text in ("red", "blue", "night")])
    words = model.encode(["red", "blue", "night"], "text").astype(np.float64)
    image = model.encode([photos / "cats" / "0.png"], "image")[0].astype(np.float64)
    stored = index.vectors(["dogs/1.png"])[0].astype(np.float64)
    wanted = 2 * image + words[0] + 0.5 * words[2] + stored - 0.25 * words[1] - image
    query = index.query(
        ["red", Part("night", 0.5)],
        image=Part(photos / "cats" / "0.png", 2),
        like="dogs/1.png",
        minus=[Part("blue", 0.25), Part(photos / "cats" / "0.png", kind="image")],
    )
    np.testing.assert_allclose(query.vector, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert (query.modality, query.ids) == ("image", ("dogs/1.png",))
    hits = index.search("red", like="dogs/1.png", k=3)
    assert "dogs/1.png" not in [hit.id for hit in hits]
    assert len(hits) == 3
    assert index.search("red", k=1, modality="text")[0].id == "red"
    assert [hit.id for hit in index.search("red", k=9, where="id = 'blue'")] == ["blue"]


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        ({}, QueryError, "nothing is asked for"),
        ({"minus": "x"}, QueryError, "nothing is asked for"),
        ({"text": "x", "minus": "x"}, QueryError, "cancel each other"),
        ({"text": Part("x", 0)}, QueryError, "a weight of 0"),
        ({"text": Part("x", float("nan"))}, QueryError, "a weight of nan"),
        ({"like": "nobody"}, QueryError, "no item 'nobody'"),
        ({"audio": "x.wav"}, ModalityError, "no modality of kind 'audio'"),
        ({"image": "missing.png"}, ItemError, "item 0"),
        ({"text": Part("x", modality="words")}, ModalityError, "no modality 'words'"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(index, asked, error, match):
    with pytest.raises(error, match=match):
        index.search(**asked)


def test_an_index_finds_its_model_again_and_refuses_what_is_not_one(model, tmp_path):
    model.checkpoint.save(tmp_path / "model")
    index = Index.create(tmp_path / "index", tmp_path / "model", dtype="float32")
    index.add([index.entry("a text", "text")])
    again = Index.open(tmp_path / "index")
    assert again.search("a text", k=1)[0].score == pytest.approx(1, abs=1e-6)
    assert again.info()["model"]["place"] == str(tmp_path / "model")
    assert len(Index.create(tmp_path / "index", model, dtype="float32")) == 1
    with pytest.raises(UnknownNameError, match="Did you mean 'exact'"):
        Index.create(tmp_path / "other", model, engine="exac")
    with pytest.raises(StoreError, match="dtype is 'int8'"):
        Index.create(tmp_path / "other", model, dtype="int8")
    with pytest.raises(StoreError, match=r"holds 'README\.md'"):
        Index.create(tmp_path / "model", model)
    with pytest.raises(StoreError, match="no index in"):
        Index.open(tmp_path / "model")
    with pytest.raises(StoreError, match=r"Open it with lightcrl\.index\.VectorIndex"):
        Index.open(Path(__file__).parents[1] / "golden" / "index-1")
    with in_turn(tmp_path / "new"), pytest.raises(StoreError, match="is being written by process"):
        Index.open(tmp_path / "new")
    unknown = Index.create(tmp_path / "unknown", model)
    with pytest.raises(QueryError, match="does not know where its model lies"):
        Index.open(unknown.folder).search("a text")


@pytest.mark.parametrize("torn", ["manifest.json", "catalog.db"])
def test_a_torn_index_is_refused(index, torn):
    index.add([index.entry("a text", "text")])
    (index.folder / torn).write_bytes(b"torn" * 2000)
    with pytest.raises((StoreError, TornStoreError), match=r"torn|cannot be read"):
        len(Index.open(index.folder))


def test_an_index_in_a_folder_that_cannot_be_written_is_read(index):
    index.add([index.entry("a text", "text", id="a")])
    index._catalog.close()
    for path in (index.folder, *index.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert Index.open(index.folder).ids() == ["a"]
    finally:
        index.folder.chmod(0o755)
