"""Prompts to embeddings and pictures: in Python, by the command, by an index; figures and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import sqrtm
from typer.testing import CliRunner

import lightcrl
from imagining import DRAWING, PRIOR, add_head, imagining
from lightcrl.cli import app
from lightcrl.data.synthetic import write_table
from lightcrl.errors import HeadError, LightCRLError, QueryError
from lightcrl.imaginer import Imaginer, TextPrior
from lightcrl.index import Index
from lightcrl.report.imagining_page import nearest
from served import fill
from shelves import make_embedder

PROMPTS = ["three blue stars on a grey ground", "a ring"]


@pytest.fixture(scope="module")
def embedder():
    return imagining()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedder):
    """The model on disk, an index of it, and a table of scenes."""
    folder = tmp_path_factory.mktemp("imagining")
    embedder.checkpoint.save(folder / "model" / "best")
    fill(folder, lightcrl.load(folder / "model", device="cpu"))
    write_table(folder / "world", 12, 3)
    return folder


def call(*words, code=0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output
    return result.output


def pixels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for made in pictures for picture in made])


def test_a_picture_depends_on_its_prompt_and_settings_alone(embedder):
    imaginer = Imaginer(embedder)
    both = pixels(imaginer.imagine(PROMPTS, samples=2))
    assert both.shape == (4, 16, 16, 3)
    alone = pixels(imaginer.imagine(PROMPTS[1:], samples=2)).astype(int)
    assert np.abs(alone - both[2:]).max() <= 1
    assert len({each.tobytes() for each in both}) == 4
    usual = pixels(imaginer.imagine(PROMPTS[:1]))
    changes = {"draws": 1, "guidance": 1.0, "prior_guidance": 3.0, "steps": 5, "seed": 1, "words": True}
    for name, value in changes.items():
        assert not np.array_equal(pixels(imaginer.imagine(PROMPTS[:1], **{name: value})), usual), name


def test_of_several_drawings_the_nearest_to_the_prompt_is_taken(embedder):
    imaginer = Imaginer(embedder)
    assert imaginer.drawing.options.draws == 4
    drawn = imaginer.imagine(PROMPTS, samples=8, draws=1)
    chosen = imaginer.imagine(PROMPTS, samples=2)
    for text, some, best in zip(PROMPTS, drawn, chosen, strict=True):
        nearness = (embedder.encode(some, "image") @ embedder.encode([text], "text")[0]).reshape(2, 4)
        for number, picture in enumerate(best):
            assert np.array_equal(picture, some[4 * number + nearness[number].argmax()])


def test_without_a_prior_words_alone_are_read(embedder):
    bare = make_embedder(kinds=("text", "image", "audio"))
    add_head(bare, "drawing", "drawing", DRAWING)
    expected = Imaginer(embedder).imagine(PROMPTS, words=True)
    assert np.array_equal(pixels(Imaginer(bare).imagine(PROMPTS)), pixels(expected))


def test_the_command_draws_and_writes_a_page(folder, embedder):
    output = call("imagine", folder / "model", *PROMPTS, "--output", folder / "pictures", "--samples", 2, "--seed", 4,
                  "--page", folder / "page.html", "--json", folder / "told.json")  # fmt: skip
    files = sorted((folder / "pictures").iterdir())
    names = ["three-blue-stars-on-a-grey-ground-1", "three-blue-stars-on-a-grey-ground-2"]
    assert [path.stem for path in files] == [f"001-{names[0]}", f"001-{names[1]}", "002-a-ring-1", "002-a-ring-2"]
    drawn = np.stack([np.asarray(Image.open(path)) for path in files])
    expected = pixels(Imaginer(embedder).imagine(PROMPTS, samples=2, seed=4))
    assert np.array_equal(drawn, expected)
    assert str(files[0]) in output
    told = json.loads((folder / "told.json").read_text())
    assert [each["text"] for each in told["imagined"]] == PROMPTS
    page = (folder / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (2 + 4)  # samples and guidance; the data of the model is unknown
    assert "three blue stars" in page


def test_the_nearest_training_pictures_differ_least():
    shades = np.array([0, 90, 100, 200], np.uint8)[:, None, None, None]
    near = nearest(Image.new("RGB", (4, 4), (97, 97, 97)), np.broadcast_to(shades, (4, 4, 4, 3)), 2)
    assert [(each.distance, each.picture.getpixel((0, 0))[0]) for each in near] == [(3, 100), (7, 90)]


def test_the_nearest_pictures_of_an_index_are_copied(folder, embedder):
    asked = [folder / "model", "a ring", "--index", folder / "index", "--samples", 2]
    call("imagine", *asked, "--output", folder / "near")
    copies = [np.asarray(Image.open(path)) for path in sorted((folder / "near").iterdir())]
    index = Index.open(folder / "index", embedder)
    hits = index.search_vectors(TextPrior(embedder).vectors(["a ring"]), 2, modality="image")[0]
    for copy, hit in zip(copies, hits, strict=True):
        assert np.array_equal(copy, np.asarray(Image.open(hit.path).convert("RGB")))


def test_search_asks_with_what_the_prior_makes(folder, embedder):
    asked = ["search", folder / "index", "--model", folder / "model", "--prior"]
    call(*asked, "two dogs", "--json", folder / "hits.json")
    told = json.loads((folder / "hits.json").read_text())
    index = Index.open(folder / "index", embedder)
    (expected,) = index.search_vectors(TextPrior(embedder).vectors(["two dogs"]), 10, query="image")
    assert [(hit["id"], hit["score"]) for hit in told["hits"]] == [(hit.id, hit.score) for hit in expected]
    assert told["query"] == {"text": [{"item": "two dogs", "weight": 1.0}]}
    plain = index.search("two dogs")
    assert [hit.score for hit in plain] != [hit.score for hit in expected]
    assert "has no item of 'text'" in call(*asked, "--like", "t0", code=1)


def test_a_prior_is_measured_beside_the_truth_and_the_text(folder):
    table = folder / "world" / "groups.jsonl"
    call("evaluate", "prior", folder / "model", "--data", table, "--column", "text=text", "--column", "image=image",
         "--target", "image", "--guidance", 2, "--json", folder / "figures.json",
         "--features", folder / "features")  # fmt: skip
    told = json.loads((folder / "figures.json").read_text())
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    embedder = lightcrl.load(folder / "model", device="cpu")
    truths = embedder.encode([folder / "world" / row["image"] for row in rows], "image")
    texts = embedder.encode([row["text"][0] for row in rows], "text")
    metrics = told["metrics"]
    cosines = (texts * truths).sum(1)
    assert metrics["before/cosine"] == pytest.approx(cosines.mean(), abs=1e-3)
    first = ((texts @ truths.T).argmax(1) == np.arange(len(rows))).mean()
    assert metrics["before/recall@1"] == pytest.approx(first)
    assert metrics["before/gap"] == pytest.approx(np.linalg.norm((texts - truths).mean(0)), abs=1e-3)
    spread = [np.cov(vectors.astype(float), rowvar=False) for vectors in (texts, truths)]
    root = sqrtm(spread[0] @ spread[1]).real
    frechet = metrics["before/gap"] ** 2 + np.trace(spread[0] + spread[1] - 2 * root)
    assert metrics["before/frechet"] == pytest.approx(frechet, abs=2e-2)
    assert metrics["diversity"] > 0.001
    assert metrics["guidance 2/cosine"] != metrics["cosine"]
    assert {name.partition("/")[0] for name in metrics if "/" in name} == {"before", "guidance 2"}
    low, high = told["interval"]["cosine"]
    assert low < metrics["cosine"] < high
    assert told["chance"]["recall@5"] == pytest.approx(5 / 12)


def test_what_cannot_be_imagined_is_refused_with_the_reason(folder, embedder):
    assert "prompt 2 is empty" in call("imagine", folder / "model", "a ring", " ", code=1)
    assert "expected --index or --pipeline" in call(
        "imagine", folder / "model", "a", "--index", folder / "index", "--pipeline", "x", code=2
    )
    with pytest.raises(QueryError, match="no prompts"):
        Imaginer(embedder).imagine([])
    bare = make_embedder(kinds=("text", "image", "audio"))
    with pytest.raises(HeadError, match="has no decoder; train one"):
        Imaginer(bare)
    with pytest.raises(HeadError, match="has no prior; train one"):
        TextPrior(bare)
    other = make_embedder(seed=1, kinds=("text", "image", "audio"))
    other.checkpoint.heads.update(embedder.checkpoint.heads)
    with pytest.raises(HeadError, match="'drawing' was trained on the space"):
        Imaginer(other)
    for options, message in ((PRIOR | {"target": "audio"}, "text -> audio; expected text -> image"),
                             (PRIOR | {"slot": 1}, "slot 1 of 'image'; expected embeddings")):  # fmt: skip
        wrong = make_embedder(kinds=("text", "image", "audio"))
        add_head(wrong, "drawing", "drawing", DRAWING)
        add_head(wrong, "prior", "prior", options)
        with pytest.raises(LightCRLError, match=message):
            Imaginer(wrong)
