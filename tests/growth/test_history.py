"""A model remembers how it grew, gives every ancestor back bit for bit, and an index knows which of them it serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import lightcrl
from golden.make import SPECS, checkpoint, waves
from growing import base, encoder, items, recipe
from lightcrl.checkpoint import Checkpoint, load_checkpoint, load_folder
from lightcrl.cli import app
from lightcrl.commands.index import open_index
from lightcrl.data import load_dataset
from lightcrl.encoders.tower import Tuned, TuningSpec
from lightcrl.errors import DataError, ForeignModelError, GrowthError
from lightcrl.growth.extend import extend, remove
from lightcrl.growth.history import make_step, restore, rollback
from lightcrl.growth.proof import same_bits
from lightcrl.index import Index
from lightcrl.lineage import Line, change, change_words, changed_since
from lightcrl.methods.spec import make_method
from lightcrl.report import growth as pages
from lightcrl.report.extension_facts import gather_model
from lightcrl.report.run_page import render

NAMES = ("base", "three", "other", "less")


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> dict[str, Path]:
    """A model of pictures and texts, with sounds, with another encoder of pictures, without texts."""
    place = tmp_path_factory.mktemp("line")
    folders = {name: place / name for name in NAMES}
    base(place, loss="sigmoid").rename(folders["base"])
    extend(folders["base"], recipe(place), output=folders["three"])
    new = {"image": encoder("image") | {"options": {"grid": 3}}}
    extend(folders["three"], recipe(place, encoders=new), replace="image", output=folders["other"])
    remove(folders["other"], "text", folders["less"])
    return folders


def test_every_step_says_what_it_changed_on_which_data_when_and_how_well(line):
    steps = load_checkpoint(line["less"]).lineage
    digests = [load_checkpoint(line[name]).digest for name in NAMES]
    assert [step["from"] for step in steps] == digests[:3]
    assert [change(step) for step in steps] == [
        ("added", ("audio",)),
        ("replaced", ("image",)),
        ("removed", ("text",)),
    ]
    figures = json.loads((line["three"] / "extension.json").read_text())["retrieval"]["metrics"]
    assert steps[0]["figures"]["split"] == "dev"
    assert steps[0]["figures"]["metrics"]["audio_to_text/recall@1"] == figures["audio_to_text/recall@1"]
    assert len(steps[0]["data"]) == 32
    assert steps[0]["data"] != steps[1]["data"]
    assert "data" not in steps[2]
    seen = [load_checkpoint(line[name]).data for name in NAMES]
    assert [each["items"].keys() for each in seen[:2]] == [{"image", "text"}, {"audio", "text"}]
    assert seen[0]["digest"] == seen[2]["digest"] != seen[1]["digest"]  # the same pictures and texts, and sounds
    assert load_checkpoint(line["less"]).data == seen[2]  # a removal trains nothing
    assert f"`{seen[1]['digest']}`" in (line["three"] / "best" / "README.md").read_text()
    assert all(step["date"].endswith("+00:00") for step in steps)


def test_the_report_searches_the_pictures_that_sounds_have_never_met(line):
    """The data of sounds and texts has no pictures: those of the ancestor are searched, without right answers."""
    report = gather_model(line["three"])
    figures = json.loads((line["three"] / "extension.json").read_text())
    assert report.growth is not None
    assert report.growth.elsewhere == ("image",)
    assert report.models[0].retrieval.to_json() == figures["retrieval"]
    assert sum(report.models[0].parts.values()) == figures["parameters"]
    asked = {(query.source, query.target) for query in report.gallery}
    assert asked == {("audio", "image"), ("audio", "text"), ("image", "audio"), ("text", "audio")}
    query = next(query for query in report.gallery if (query.source, query.target) == ("audio", "image"))
    assert (query.rank, query.answer, query.why) == (0, None, "drawn")
    assert query.size == sum(
        split != "train" for split in load_dataset(recipe(line["base"].parent).data, {"image": "image"}).splits
    )
    scores = [result.score for result in query.found]
    assert scores == sorted(scores, reverse=True)
    assert all(result.item.uri and result.item.text for result in query.found)
    page = render(report)
    assert "no group has both, so there is no right answer" in page
    assert "with audio" in page
    assert load_checkpoint(line["base"]).digest[:12] in page


def test_the_report_of_another_encoder_has_both(line):
    """Old embeddings of the replaced modality, which the recipe leaves out here, are no right answers of anything."""
    report = gather_model(line["other"])
    assert report.growth is not None
    assert [row[1] for row in report.growth.history] == ["trained", "with audio", "image by another encoder"]
    assert {(query.source, query.target) for query in report.gallery} >= {("image", "text"), ("text", "image")}
    assert report.models[0].method == "dfe"


def test_done_again_it_keeps_its_date(line, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(line["three"], folder)
    before = load_checkpoint(folder)
    made = load_checkpoint(folder)
    made.lineage[-1]["date"] = "2000-01-01T00:00:00+00:00"
    made.save(folder / "best")
    assert load_checkpoint(folder).digest == before.digest  # when it was made does not change a model
    extend(line["base"], recipe(line["base"].parent), output=folder)
    assert load_checkpoint(folder).lineage[-1]["date"] == "2000-01-01T00:00:00+00:00"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_ancestor_comes_back_bit_for_bit_from_the_checkpoint_alone(line, tmp_path, number):
    (tmp_path / "alone").mkdir()
    shutil.copytree(line["less"] / "best", tmp_path / "alone" / "best")
    old = load_checkpoint(line[NAMES[number]])
    back = rollback(tmp_path / "alone", old.digest[:8], tmp_path / "back")
    assert back.digest == old.digest
    assert back.config() == old.config()
    state, before = back.method.state_dict(), old.method.state_dict()
    assert all(same_bits(state[leaf], before[leaf]) for leaf in before)
    for name in old.method.modalities:
        places = (tmp_path / "back", line[NAMES[number]])
        vectors = [lightcrl.load(place).encode(items(name), name) for place in places]
        assert vectors[0].tobytes() == vectors[1].tobytes()


def test_a_trained_encoder_comes_back_too(tmp_path):
    method = make_method("linear", SPECS, {"dim": 4}, "info_nce").eval()
    tower = Tuned(TuningSpec(blocks=1), {"layer.weight": waves(2, 2)})
    whole = checkpoint(method, "linear", towers={"text": tower})
    step, former = make_step(whole, "replaced", ["text"])
    anew = method.remade(SPECS, frozenset(["text"]), seed=1).eval()
    fresh = checkpoint(anew, "linear", lineage=[step], former=former)
    fresh.save(tmp_path / "fresh")
    assert load_folder(tmp_path / "fresh").config()["format"] == 3
    back = restore(load_folder(tmp_path / "fresh"), whole.digest)
    assert back.digest == whole.digest
    assert torch.equal(back.towers["text"].tensors["layer.weight"], waves(2, 2))
    assert back.figures == whole.figures
    kept = load_folder(Path(__file__).parents[1] / "golden" / "checkpoint-3-extended")
    assert torch.equal(restore(kept, kept.lineage[0]["from"]).towers["text"].tensors["layer.weight"], waves(2, 2))


def test_what_cannot_be_restored_is_refused(line, tmp_path):
    model = load_checkpoint(line["less"])
    with pytest.raises(GrowthError, match=r"0 ancestors with a digest that begins with 'x'; the model has "):
        restore(model, "x")
    with pytest.raises(GrowthError, match=r"0 ancestors with a digest that begins with ''"):
        restore(model, "")
    with pytest.raises(GrowthError, match="the model has none: it was trained whole"):
        restore(load_checkpoint(line["base"]), "ab")
    early = load_folder(Path(__file__).parents[1] / "golden" / "checkpoint-1-grown")
    with pytest.raises(GrowthError, match="was made by an earlier version of lightcrl, which kept no record"):
        restore(early, "0000")
    model.former["1/stems.image.bias"] = model.former["1/stems.image.bias"] + 1
    with pytest.raises(GrowthError, match="the record in the checkpoint was changed by hand"):
        restore(model, model.lineage[0]["from"])
    with pytest.raises(GrowthError, match="is the model's own folder"):
        rollback(line["less"], "ab", line["less"])


def test_the_card_and_info_show_the_line(line, monkeypatch):
    model = load_checkpoint(line["less"])
    card = (line["less"] / "best" / "README.md").read_text()
    for step, digest in zip(model.lineage, [step["from"] for step in model.lineage[1:]] + [model.digest], strict=True):
        assert f"| `{digest[:12]}` | {change_words(step)} | {step['date'][:10]} |" in card
    screen = Console(width=200, record=True)
    monkeypatch.setattr(pages, "console", screen)
    pages.print_history(model)
    lines = screen.export_text().splitlines()
    assert lines[0] == f"{model.lineage[0]['from'][:12]} trained"
    assert lines[1].startswith(f"└── {model.lineage[1]['from'][:12]} with audio; ")
    assert "R@1 on dev: audio to text" in lines[1]
    assert lines[2].startswith(f"    └── {model.lineage[2]['from'][:12]} image by another encoder; ")
    assert lines[3].startswith(f"        └── {model.digest[:12]} without text; ")


def test_the_command_rolls_back_and_info_has_the_tree(line, tmp_path):
    digest = load_checkpoint(line["base"]).digest
    words = ["extend", str(line["three"]), "--rollback", digest[:10], "--output", str(tmp_path / "back")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"restored {digest}: image, text, bit for bit" in result.output.replace("\n", " ")
    assert f"{digest[:12]} trained" in CliRunner().invoke(app, ["info", str(line["three"])]).output
    assert CliRunner().invoke(app, words[:4]).exit_code == 2


# --- an index and the line of its model ---


@pytest.fixture(scope="module")
def index(line, tmp_path_factory) -> Path:
    """An index of the first model: pictures and texts."""
    folder = tmp_path_factory.mktemp("old") / "index"
    made = Index.create(folder, str(line["base"]))
    made.add([made.entry(text, "text", f"t{number}") for number, text in enumerate(items("text", 8))])
    made.add([made.entry(picture, "image", f"p{number}") for number, picture in enumerate(items("image", 8))])
    return folder


def test_an_index_takes_the_queries_of_all_descendants(line, index):
    """Among them sounds, which it has never heard of, and pictures by another encoder."""
    before = Index.open(index).search(items("text", 1)[0], modality="image", k=8)
    three = Index.open(index, line["three"])
    assert three.modalities == {"image": "image", "text": "text", "audio": "audio"}
    assert three.search(items("text", 1)[0], modality="image", k=8) == before
    assert len(three.search(audio=items("audio", 1)[0], k=16)) == 16
    other = Index.open(index, line["other"])
    assert len(other.search(image=items("image", 1)[0], modality="text", k=8)) == 8
    assert Index.open(index, line["less"]).embedder.modalities.keys() == {"image", "audio"}


def test_another_model_is_refused(line, index, tmp_path):
    stranger = load_checkpoint(line["base"])
    stranger.method.logit_scale.data += 1e-3
    stranger.save(tmp_path)
    with pytest.raises(ForeignModelError, match=r"have nothing in common. Give the model of the index, one extended"):
        Index.open(index, tmp_path)
    with pytest.raises(ForeignModelError, match="have nothing in common"):
        Index.open(index).search_vectors(np.eye(24)[:1], fingerprint=stranger.digest)


def test_a_descendant_that_adds_items_takes_the_index_over(line, index, tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    three = Index.open(folder, line["three"])
    three.add([three.entry(sound, "audio", f"s{number}") for number, sound in enumerate(items("audio", 3))])
    again = Index.open(folder)
    assert again.fingerprint == load_checkpoint(line["three"]).digest
    assert again.manifest["model"]["place"] == str(line["three"])
    assert again.counts() == {"text": 8, "image": 8, "audio": 3}
    assert again.search(items("text", 1)[0], modality="image") == Index.open(index).search(
        items("text", 1)[0], modality="image"
    )
    ancestor = load_checkpoint(line["base"]).digest
    assert again.info()["ancestors"] == [{"fingerprint": ancestor, "modalities": ["image", "text"]}]
    shown = CliRunner().invoke(app, ["index", "info", str(folder)]).output
    assert "valid for" in shown
    assert ancestor[:12] in shown
    older = Index.open(folder, line["base"])
    assert older.search(items("text", 1)[0], modality="audio", k=1)[0].id.startswith("s")


def test_after_a_replacement_an_ancestor_keeps_what_was_not_replaced(line, index, tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    other = Index.open(folder, line["other"])
    other.add([other.entry(picture, "image", f"n{number}") for number, picture in enumerate(items("image", 12)[8:])])
    base_digest, three_digest = (load_checkpoint(line[name]).digest for name in ("base", "three"))
    again = Index.open(folder)
    assert [entry["modalities"] for entry in again.info()["ancestors"]] == [["text", "audio"], ["text"]]
    with pytest.raises(ForeignModelError, match="with another encoder of 'image'"):
        Index.open(folder, line["base"])
    vectors = lightcrl.load(line["base"]).encode(items("text", 1), "text")
    assert again.search_vectors(vectors, 1, fingerprint=base_digest, query="text") == again.search_vectors(
        vectors, 1, query="text"
    )
    with pytest.raises(ForeignModelError, match="with another encoder of 'image'"):
        again.search_vectors(vectors, 1, fingerprint=three_digest, query="image")


def test_the_server_and_its_page_take_the_extended_model_with_the_index_of_before(line, index, tmp_path):
    """The answers to texts are those of before; sounds, of which the index has none, are asked as well."""
    from starlette.testclient import TestClient

    from lightcrl.serve.app import make_app
    from lightcrl.serve.service import Service, Settings
    from served import data_url, wait_until_ready, wav

    answers = {}
    for name in ("base", "three"):
        folder = tmp_path / name
        shutil.copytree(index, folder)
        opened = open_index(folder, str(line[name]), None, False)
        with TestClient(make_app(Service(opened, Settings())), raise_server_exceptions=False) as client:
            wait_until_ready(client.get)
            asked = {"text": items("text", 1)[0], "modality": "image", "k": 4}
            answers[name] = client.post("/search", json=asked).json()["hits"]
            assert client.get("/").status_code == 200
            heard = client.post("/search", json={"audio": data_url(wav(1.0, 16000), "audio/wav"), "k": 4})
            assert set(client.get("/info").json()["modalities"]) == set(opened.modalities)
        assert heard.status_code == (200 if name == "three" else 400), heard.text
    assert answers["base"] == answers["three"]
    assert len(answers["three"]) == len(heard.json()["hits"]) == 4


def test_the_folder_of_an_extended_model_is_no_source_of_items(line, tmp_path):
    made = Index.create(tmp_path / "index", str(line["three"]))
    with pytest.raises(DataError, match="is an extended model, whose data are the items that it was extended with"):
        made.add(line["three"])


def test_what_has_changed_since_the_model_of_a_query():
    index = Line("c", [{"from": "a", "added": ["audio"]}, {"from": "b", "replaced": ["image"]}])
    assert changed_since(index, Line("c")) == frozenset()
    assert changed_since(index, Line("d", [{"from": "c", "removed": ["audio"]}])) == frozenset()
    assert changed_since(index, Line("b")) == {"image"}
    assert changed_since(index, Line("a")) == {"audio", "image"}
    assert changed_since(index, Line("e", [{"from": "b", "added": ["note"]}])) is None


def test_vectors_of_old_modalities_are_read_from_an_index(line, index, tmp_path):
    """Rows of sounds name their captions: by the text, or by the id in the index; no text encoder is at hand."""
    texts = items("text", 40)
    made = Index.create(tmp_path / "index", str(line["base"]))
    made.add([made.entry(text, "text", f"t{number}") for number, text in enumerate(texts)])
    table = write_sounds(tmp_path, texts)
    data = {"path": str(table), "key": "key", "dev_fraction": 0.3}
    moved = {"image": tmp_path / "nowhere", "text": tmp_path / "nowhere"}
    stores = []
    for column in ("id", "caption"):
        given = {"text": {"path": str(tmp_path / "index"), "column": column}}
        wanted = recipe(line["base"].parent, data=data, vectors=given, training={"epochs": 1})
        done = extend(line["base"], wanted, output=tmp_path / column, encoders=moved)
        assert done.proof.modalities == ("image", "text")
        stores.append(lightcrl.features.FeatureStore(tmp_path / column / "anchors" / "text"))
    kept = [store.gather(np.arange(store.rows)).values[:, 0].numpy() for store in stores]
    expected = made.vectors([f"t{number}" for number in range(40)])
    assert kept[0].shape == expected.shape
    np.testing.assert_allclose(kept[0] @ expected.T, expected @ expected.T, atol=2e-3)
    np.testing.assert_array_equal(kept[0], kept[1])


def write_sounds(folder: Path, texts: list[str]) -> Path:
    """A table of sounds with the id and the text of their captions."""
    from growing import write_wave

    with (folder / "sounds.jsonl").open("w") as stream:
        for number, sound in enumerate(items("audio", len(texts))):
            write_wave(folder / f"{number}.wav", *sound)
            row = {"audio": f"{number}.wav", "id": f"t{number}", "caption": texts[number], "key": f"g{number}"}
            stream.write(json.dumps(row) + "\n")
    return folder / "sounds.jsonl"


def test_an_index_of_another_model_or_without_the_modality_gives_no_vectors(line, index, tmp_path):
    from lightcrl.growth.spec import VectorsSpec
    from lightcrl.growth.vectors import read_vectors

    model: Checkpoint = load_checkpoint(line["three"])
    spec = VectorsSpec(path=str(index))
    vectors, at = read_vectors(spec, model.method.dim, "text", model.line)
    assert len(vectors) == 8
    assert at["t3"] == at[items("text", 8)[3]]
    with pytest.raises(ForeignModelError, match="have nothing in common"):
        read_vectors(spec, model.method.dim, "text", Line("of another"))
    with pytest.raises(DataError, match="has no items of 'audio'; it has 8 of text, 8 of image"):
        read_vectors(spec, model.method.dim, "audio", model.line)
    with pytest.raises(DataError, match="has vectors of width 24; expected 5, the width of this model"):
        read_vectors(spec, 5, "text", model.line)
