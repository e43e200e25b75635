"""Own vectors through every command: run, evaluate, embed, index, extend, export, check, report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import lightcrl
from embedding_layout import read_pairs
from lightcrl.cli import app
from lightcrl.data import DataSpec, load_dataset
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.vectors import GivenVectors
from lightcrl.errors import EncoderError, ItemError, ModalityError, ShapeError
from lightcrl.features import Features, FeatureStore, extract
from lightcrl.index import Index, Reading
from lightcrl.recipe import make_recipe

GROUPS, WIDE, NARROW = 240, 24, 16
TRAINING = {"epochs": 12, "batch_size": 64, "precision": "float32", "tensorboard": False}


def views(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Vectors of pictures and texts that show the same eight numbers, and three tokens of sounds."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(0)
    hidden = rng.normal(size=(count, 8))
    made = {
        name: hidden @ maps.normal(size=(8, width)) + 0.1 * rng.normal(size=(count, width))
        for name, width in (("image", WIDE), ("text", NARROW))
    }
    turns = maps.normal(size=(3, 8, NARROW))
    made["audio"] = np.einsum("nh,thd->ntd", hidden, turns) + 0.1 * rng.normal(size=(count, 3, NARROW))
    return {name: values.astype(np.float32) for name, values in made.items()}


def write(folder: Path, count: int, seed: int = 1) -> Path:
    """The layout of clip-retrieval, in two parts."""
    made = views(count, seed)
    for part, rows in enumerate(np.array_split(np.arange(count), 2)):
        for name, values in made.items():
            place = folder / f"{'img' if name == 'image' else name}_emb"
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{place.name}_{part}.npy", values[rows])
        (folder / "metadata").mkdir(exist_ok=True)
        table = {"name": [f"n{row}" for row in rows], "year": [2000 + int(row) % 20 for row in rows]}
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """A model of the vectors of pictures and texts."""
    write(place / "emb", GROUPS), write(place / "held", 60, seed=2)
    table = {
        "name": "own",
        "data": {"source": "vectors", "path": str(place / "emb"), "key": "name", "dev_fraction": 0.2},
        "encoders": {
            "image": {"kind": "vectors", "model": "clip-vit-b32"},
            "text": {"kind": "vectors", "model": "text-embedding-3-large"},
        },
        "features": {"folder": str(place / "features")},
        "method": {"name": "linear", "dim": 16, "input_dropout": 0.0},
        "training": TRAINING,
    }
    return lightcrl.run(make_recipe(table), output=place / "run").folder


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_learns_from_vectors_alone_and_stores_links_to_them(place: Path, model: Path) -> None:
    metrics = json.loads((model / "metrics.json").read_text())["models"][0]["retrieval"]["metrics"]
    assert metrics["mean_recall@1"] > 0.6
    (folder,) = (place / "features").glob("image-*")
    links = sorted(folder.glob("values-*.npy"))
    assert [link.resolve() for link in links] == sorted((place / "emb" / "img_emb").glob("*.npy"))
    store = FeatureStore(folder)
    store.verify()
    np.testing.assert_array_equal(store.gather(np.array([150, 3])).values[:, 0], views(GROUPS)["image"][[150, 3]])
    assert (store.nbytes, store.manifest["dtype"]) == (GROUPS * WIDE * 4, "float32")


def test_finished_vectors_are_embedded_without_the_encoder(place: Path, model: Path) -> None:
    embedder = lightcrl.load(model)
    vectors = views(5, seed=3)["text"]
    expected = embedder.encode(list(vectors), "text")
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    for form in (vectors, torch.from_numpy(vectors), vectors[:, None], list(vectors), vectors.tolist()):
        np.testing.assert_allclose(embedder.encode_vectors(form, "text"), expected, atol=1e-6)
    assert embedder.encode_vectors(vectors[:0], "text").shape == (0, 16)
    with pytest.raises(ShapeError, match=r"item 0 has tokens \[1, 24\]; 'text' has T x 16"):
        embedder.encode_vectors(views(2)["image"], "text")
    with pytest.raises(ItemError, match="item 1: not finite"):
        embedder.encode_vectors([vectors[0], vectors[1] * np.nan], "text")
    with pytest.raises(ModalityError, match="no modality 'sound'"):
        embedder.encode_vectors(vectors, "sound")


def test_evaluate_reads_a_folder_of_arrays_and_a_table_with_ids(place: Path, model: Path) -> None:
    out = place / "out.json"
    call("evaluate", "retrieval", model, "--data", place / "held", "--features", place / "f", "--json", out)
    result = json.loads(out.read_text())
    assert result["counts"]["text_to_image/gallery"] == 60
    assert result["metrics"]["text_to_image/recall@1"] > 0.6
    held = views(60, seed=2)
    np.save(place / "t.npy", held["text"])
    (place / "t.json").write_text(json.dumps([f"c{row}" for row in range(60)]))
    lines = [{"image": vector.tolist(), "caption": f"c{row}"} for row, vector in enumerate(held["image"])]
    (place / "held.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = ("--column", "image=image", "--column", "text=caption", "--vectors", f"text={place / 't.npy'}")
    words = ("--data", place / "held.jsonl", *columns, "--features", place / "f", "--json", out)
    call("evaluate", "retrieval", model, *words)
    assert json.loads(out.read_text())["metrics"] == pytest.approx(result["metrics"], abs=1e-3)


def test_embed_and_index_take_vectors_and_give_them_back(place: Path, model: Path) -> None:
    embedder, held = lightcrl.load(model), views(60, seed=2)
    call("embed", model, place / "held" / "text_emb", "--modality", "text", "--output", place / "e.npy")
    expected = embedder.encode_vectors(held["text"], "text")
    np.testing.assert_allclose(np.load(place / "e.npy"), expected, atol=1e-6)
    call("index", "build", model, place / "held", "--output", place / "i", "--dtype", "float32", "--id", "name")
    index = Index.open(place / "i")
    assert index.counts() == {"image": 60, "text": 60}
    assert index.get("n7/image").metadata["year"] == 2007
    (hits,) = index.search_vectors(expected[7:8], k=1, modality="image", where="year = 2007")
    assert hits[0].id == "n7/image"
    # A single file, and a vector in memory.
    np.save(place / "more.npy", held["text"][:3] + 5)
    assert index.add(place / "more.npy", reading=Reading(modality="text")).added == 3
    assert index.add([index.entry(held["image"][0] + 5, "image", id="mine")]).added == 1
    np.testing.assert_allclose(
        index.vectors(["mine"]), embedder.encode_vectors(held["image"][:1] + 5, "image"), atol=1e-6
    )
    call("index", "export", place / "i", "--output", place / "out")
    vectors, rows = read_pairs(place / "out" / "image_emb", place / "out" / "image_metadata")
    assert [row["id"] for row in rows] == [*(f"n{row}/image" for row in range(60)), "mine"]
    np.testing.assert_allclose(vectors[:60], embedder.encode_vectors(held["image"], "image"), atol=1e-6)


def test_a_feature_store_is_exported_with_a_row_per_token(place: Path, model: Path) -> None:
    (store,) = (place / "features").glob("text-*")
    call("index", "export", store, "--output", place / "store")
    vectors, rows = read_pairs(place / "store" / "text_emb", place / "store" / "text_metadata")
    np.testing.assert_array_equal(vectors, views(GROUPS)["text"])
    assert [(row["group"], row["row"], row["token"]) for row in rows] == [(f"n{row}", row, 0) for row in range(GROUPS)]


def test_a_modality_of_tokens_is_added_to_a_model(place: Path, model: Path) -> None:
    recipe = place / "more.toml"
    recipe.write_text(
        f"""partners = ["text"]
[data]
source = "vectors"
path = "emb"
key = "name"
dev_fraction = 0.2
[encoders.audio]
kind = "vectors"
options = {{ slots = 3 }}
[features]
folder = "{place / "features"}"
[training]
epochs = 12
batch_size = 64
tensorboard = false
"""
    )
    call("extend", model, recipe, "--output", place / "grown", "--json", place / "grown.json")
    done = json.loads((place / "grown.json").read_text())
    assert done["retrieval"]["metrics"]["audio_to_text/recall@1"] > 0.5
    tokens = views(2)["audio"]
    assert lightcrl.load(place / "grown").encode_vectors(tokens, "audio").shape == (2, 16)
    with pytest.raises(ShapeError, match=r"item 0 has tokens \[2, 16\]; 'audio' has 3 x 16"):
        lightcrl.load(place / "grown").encode_vectors(tokens[:, :2], "audio")


def test_check_works_on_vectors(place: Path, model: Path) -> None:
    out = place / "check.json"
    recipe = json.loads((model / "recipe.json").read_text())
    lines = [
        f"[{name}]" + "".join(f"\n{key} = {json.dumps(value)}" for key, value in recipe[name].items() if value)
        for name in ("data", "features")
    ]
    lines += [
        f"[encoders.{name}]\nkind = 'vectors'\nmodel = '{spec['model']}'" for name, spec in recipe["encoders"].items()
    ]
    (place / "r.toml").write_text("\n".join(lines).replace("options = {}", "").replace("columns = {}", ""))
    call("check", place / "r.toml", "--sample", "60", "--json", out)
    (pair,) = json.loads(out.read_text())["pairs"].values()
    assert pair["closed_form"]["recall@1"] > 0.5


def test_report_and_export_work_on_vectors(place: Path, model: Path) -> None:
    call("report", model)
    assert "text-embedding-3-large" in (model / "report.html").read_text()
    call("export", model, "--output", place / "onnx")
    from lightcrl.export import ExportedEmbedder

    vectors = views(4, seed=5)["text"]
    np.testing.assert_allclose(
        ExportedEmbedder(place / "onnx").encode(list(vectors), "text"),
        lightcrl.load(model).encode_vectors(vectors, "text"),
        atol=1e-5,
    )


# --- the encoder, and stores without a copy ---


def test_the_first_vector_decides_the_width_and_others_are_set_aside(tmp_path: Path) -> None:
    lines = [{"a": [1, 2], "b": "x"}, {"a": [1, 2, 3], "b": "y"}, {"a": [3, 4], "b": "z"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl")), {"a": "vectors", "b": "text"})
    encoder = load_encoder(EncoderSpec(kind="vectors"))
    with pytest.raises(EncoderError, match=r"options = \{ dim = D \} tells it before"):
        _ = encoder.dim
    done = extract(encoder, dataset, "a", tmp_path / "f", max_rejected=0.5)
    assert [str(entry) for entry in done.rejected] == ["t.jsonl:2: another width (found 3 numbers; expected 2)"]
    assert isinstance(encoder, GivenVectors)
    assert encoder.spec.options == {"dim": 2}
    assert encoder.origin is not None
    assert encoder.origin().dim == 2
    given = load_encoder(EncoderSpec(kind="vectors", options={"dim": 3}))
    assert len(extract(given, dataset, "a", tmp_path / "g", max_rejected=0.9).rejected) == 2
    assert given.fingerprint == encoder.fingerprint
    assert given.fingerprint != load_encoder(EncoderSpec(kind="vectors", model="cohere")).fingerprint


def test_settings_that_vectors_cannot_have_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"does not take layers, tokens\. Its constructor has: dim, slots"):
        load_encoder(EncoderSpec(kind="vectors", layers=(-1,), tokens="mean"))
    with pytest.raises(EncoderError, match="dim = 0 of 'vectors': expected a whole number from 1"):
        load_encoder(EncoderSpec(kind="vectors", options={"dim": 0}))
    tokens = load_encoder(EncoderSpec(kind="vectors", options={"slots": 2, "sequence": True}))
    assert len(tokens.prepare(np.ones((3, 2)))) == 3
    with pytest.raises(ItemError, match="another number of tokens: found 2; expected 3"):
        tokens.prepare(np.ones((2, 2)))


@pytest.mark.parametrize(
    ("change", "linked"),
    [
        (lambda array: array, True),
        (lambda array: array.astype(np.float16), True),
        (lambda array: array.astype(np.float64), False),
        (np.asfortranarray, False),
        (lambda array: np.where(np.arange(len(array))[:, None] == 3, np.nan, array), False),
    ],
)
def test_a_store_is_a_link_where_the_layout_allows_it(tmp_path: Path, change, linked: bool) -> None:
    array = change(views(8)["image"])
    np.save(tmp_path / "image.npy", array), np.save(tmp_path / "text.npy", views(8)["text"])
    spec = DataSpec(source="vectors", path=str(tmp_path))
    dataset = load_dataset(spec, {"image": "vectors", "text": "vectors"})
    store = extract(load_encoder(EncoderSpec(kind="vectors")), dataset, "image", tmp_path / "f").store
    assert (store.folder / "values-00000.npy").is_symlink() == linked
    kept = array[np.isfinite(array).all(1)]
    np.testing.assert_allclose(store.gather(np.arange(store.rows)).values[:, 0], kept, rtol=1e-3, atol=1e-3)
    assert Features({"image": store}).split("train").count <= store.rows == len(kept)
    again = extract(load_encoder(EncoderSpec(kind="vectors")), dataset, "image", tmp_path / "f")
    assert (again.encoded, again.kept) == (0, len(kept))
