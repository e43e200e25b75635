"""`lightcrl init` on ten shapes of data, each with the right recipe or the right refusal."""

from __future__ import annotations

import io
import json
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.studies.survey import models
from lightcrl.studies.survey.columns import read_column
from lightcrl.studies.survey.models import find_candidates
from tiny import MODELS

COUNT = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, sounds and captions of a generated world."""
    return write_table(tmp_path_factory.mktemp("world"), COUNT, seed=3).parent


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without models, and a working folder of its own."""
    monkeypatch.setattr(models, "model_places", lambda data: [])
    monkeypatch.setattr("lightcrl.studies.survey.models._cached", lambda: iter(()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def rows(world: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / "groups.jsonl").read_text().splitlines()]


def pairs_csv(folder: Path, world: Path) -> Path:
    """A folder of pictures with a CSV of five columns beside it."""
    (folder / "photos").symlink_to(world / "images")
    lines = ["id,file,views,title,caption"]
    for number, row in enumerate(rows(world)):
        lines += [f'{number},{Path(row["image"]).name},{number * 7},picture,"{text}"' for text in row["text"]]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def coco(folder: Path, world: Path) -> Path:
    """Captions in annotations/, pictures in folders beside it, and a file of boxes that is no table of pairs."""
    (folder / "annotations").mkdir()
    for split, chosen in (("train", slice(0, 20)), ("val", slice(20, None))):
        (folder / f"{split}2017").mkdir()
        for row in rows(world)[chosen]:
            (folder / f"{split}2017" / Path(row["image"]).name).symlink_to(world / row["image"])
        images = [{"id": n, "file_name": Path(row["image"]).name} for n, row in enumerate(rows(world)[chosen])]
        captions = [
            {"image_id": n, "caption": text} for n, row in enumerate(rows(world)[chosen]) for text in row["text"]
        ]
        document = {"images": images, "annotations": captions}
        (folder / f"annotations/captions_{split}2017.json").write_text(json.dumps(document))
        boxes = {"images": images, "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}
        (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(boxes))
    return folder


def class_folders(folder: Path, world: Path) -> Path:
    return write_class_folder(folder / "shapes", "shape", per_class=12)


def sounds(folder: Path, world: Path) -> Path:
    """Sounds in a folder per class, of which one is broken."""
    for number, row in enumerate(rows(world)):
        place = folder / ("low_hum" if number % 2 else "DogBark")
        place.mkdir(exist_ok=True)
        (place / f"{number}.wav").write_bytes((world / row["audio"]).read_bytes())
    (folder / "low_hum/1.wav").write_bytes(b"no sound")
    return folder


def hub_parquet(folder: Path, world: Path) -> Path:
    """A repository of the hub: Parquet with the bytes of pictures, a split per file."""
    (folder / "data").mkdir()
    held = [
        {"image": {"bytes": (world / row["image"]).read_bytes(), "path": "x.png"}, "caption": row["text"]}
        for row in rows(world)
    ]
    for split, chosen in (("train", held[:20]), ("validation", held[20:])):
        data = datasets.Dataset.from_list(chosen).cast_column("image", datasets.Image())
        data.to_parquet(str(folder / f"data/{split}-00000-of-00001.parquet"))
    return folder


def webdataset(folder: Path, world: Path) -> Path:
    with tarfile.open(folder / "shard-000.tar", "w") as tar:
        for number, row in enumerate(rows(world)):
            members = {
                "png": (world / row["image"]).read_bytes(),
                "json": json.dumps({"caption": row["text"][0]}).encode(),
            }
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{number:04}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def text_pairs(folder: Path, world: Path) -> Path:
    """Scored pairs with a split per file; those of low score do not belong together."""
    for split in ("train", "dev", "test"):
        lines = [
            {"sentence1": f"{split} number {n} is here", "sentence2": f"here is {split} number {n}", "score": n % 6}
            for n in range(60)
        ]
        (folder / f"sts_{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "sts_train.jsonl"


def embeddings(folder: Path, world: Path) -> Path:
    """The output of clip-retrieval."""
    rng = np.random.default_rng(0)
    for name in ("img_emb", "text_emb"):
        (folder / name).mkdir()
        np.save(folder / name / f"{name}_0.npy", rng.normal(size=(COUNT, 8)).astype(np.float32))
    (folder / "metadata").mkdir()
    table = pa.table({"image_path": [f"{n // 2}.jpg" for n in range(COUNT)], "clip_id": [n // 2 for n in range(COUNT)]})
    pq.write_table(table, folder / "metadata/metadata_0.parquet")
    return folder


def nested(folder: Path, world: Path) -> Path:
    for number, row in enumerate(rows(world)):
        place = folder / "2026" / ("june" if number % 3 else "july") / ("red_things" if number % 2 else "blue_things")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes((world / row["image"]).read_bytes())
    return folder


def sidecars(folder: Path, world: Path) -> Path:
    """Pictures, sounds and texts of one name, in folders."""
    for number, row in enumerate(rows(world)):
        place = folder / f"part{number % 2}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes((world / row["image"]).read_bytes())
        (place / f"{number}.txt").write_text("\n".join(row["text"]) + "\n")
    return folder


def no_pair(folder: Path, world: Path) -> Path:
    lines = ["file,width,height", *(f"{row['image']},96,{n}" for n, row in enumerate(rows(world)))]
    (world / "sizes.csv").write_text("\n".join(lines))
    return world / "sizes.csv"


def pictures_alone(folder: Path, world: Path) -> Path:
    return world / "images"


RIGHT: dict[str, tuple[Callable[[Path, Path], Path], dict[str, Any], dict[str, str], dict[str, int]]] = {
    "pairs CSV": (
        pairs_csv,
        {"columns": {"image": "file", "text": "caption"}},
        {"image": "image", "text": "text"},
        {"image": 30},
    ),
    "COCO": (coco, {"columns": None}, {"image": "image", "text": "text"}, {"image": 30}),
    "class folders": (
        class_folders,
        {"source": "folder"},
        {"image": "image", "text": "text"},
        {"image": 96, "text": 8},
    ),
    "audio folders": (sounds, {"source": "folder"}, {"audio": "audio", "text": "text"}, {"audio": 30, "text": 2}),
    "hub parquet": (
        hub_parquet,
        {"source": "hub", "columns": {"image": "image", "text": "caption"}},
        {"image": "image", "text": "text"},
        {"image": 30},
    ),
    "WebDataset": (
        webdataset,
        {"source": "webdataset", "columns": {"image": "png", "text": "json:caption"}},
        {"image": "image", "text": "text"},
        {"image": 30},
    ),
    "text pairs": (text_pairs, {}, {"sentence1": "text", "sentence2": "text"}, {"sentence1": 60}),
    "embeddings": (
        embeddings,
        {"source": "vectors", "columns": {"image": "img_emb", "text": "text_emb"}, "key": "image_path"},
        {"image": "vectors", "text": "vectors"},
        {"image": 30, "text": 30},
    ),
    "nested folders": (nested, {}, {"image": "image", "text": "text"}, {"image": 30, "text": 2}),
    "files of one name": (sidecars, {}, {"image": "image", "text": "text"}, {"image": 30}),
}


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.mark.parametrize("shape", list(RIGHT))
def test_each_shape_has_the_right_recipe(shape: str, world: Path, tmp_path: Path) -> None:
    make, data, kinds, items = RIGHT[shape]
    (tmp_path / "data").mkdir()
    place = make(tmp_path / "data", world)
    code, output = call("init", place, "--output", "my.toml", "--json", "out.json")
    assert code == 0, output
    table, told = tomllib.loads(Path("my.toml").read_text()), json.loads(Path("out.json").read_text())
    assert {name: table["data"].get(name) for name in data} == data
    assert {name: spec["kind"] for name, spec in table["encoders"].items()} == kinds
    assert {name: told["items"][name] for name in items} == items
    assert min(told["groups"]["train"], told["groups"]["dev"]) > 0
    # A tenth of these few groups would leave dev three or four of them.
    drawn = table["data"].get("dev_fraction")
    assert drawn == (None if shape in ("COCO", "hub parquet", "text pairs") else 0.25)
    assert lightcrl.load_recipe("my.toml").name == "my"
    assert "wrote" in output
    if shape == "audio folders":
        assert "1 of" in output
        assert "sampled files cannot be read" in output
    if shape == "embeddings":
        assert sum(told["groups"].values()) == COUNT / 2
    if shape == "text pairs":
        assert told["groups"] == {"train": 20, "dev": 20, "test": 20}
        assert "only pairs with score >= 4 of 5" in output
        assert table["evaluation"]["text_similarity"]["columns"] == {"text1": "sentence1", "text2": "sentence2"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_pair, "has no pairs: file stands alone (file: pictures, such as images/000000.png; width"),
        (pictures_alone, "has 30 pictures, and nothing says what belongs together. Expected a table of pairs"),
        (lambda folder, world: folder, "is empty. Expected a table, or pictures"),
        (lambda folder, world: folder / "nothing", "nothing is not there"),
    ],
)
def test_data_without_pairs_is_refused(make: Any, message: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, output = call("init", make(tmp_path / "data", world))
    assert code == 1
    assert message in output.replace("\n", " ")
    assert not list(Path().glob("*.toml"))


def test_two_commands_lead_from_a_folder_of_pictures_to_a_model(world: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pairs_csv(tmp_path / "photos", world)
    assert call("init", tmp_path / "photos", "--column", "image=file", "--column", "text=caption")[0] == 0
    recipe = Path("photos.toml").read_text()
    assert "[encoders.image]" in recipe
    small = ("training.epochs=1", "training.tensorboard=false", "method.name=linear", f"features.folder={tmp_path}/f")
    code, output = call("run", "photos.toml", *(word for change in small for word in ("--set", change)))
    assert code == 0, output
    assert lightcrl.load("runs/photos").encode(["a red circle"], "text").shape[0] == 1
    # A second look does not overwrite what was edited.
    code, output = call("init", tmp_path / "photos")
    assert code == 1
    assert "photos.toml exists already. Say --force" in output.replace("\n", " ")
    assert call("init", tmp_path / "photos", "--force", "--encoder", "text=builtin")[0] == 0
    code, output = call("init", tmp_path / "photos", "--force", "--column", "text=captoin")
    assert "Did you mean 'caption'?" in output.replace("\n", " ")


def test_models_on_the_machine_are_chosen_and_better_ones_named(world: Path, tmp_path: Path) -> None:
    for name in ("bert", "resnet", "registers"):
        MODELS[name][1](tmp_path / "models" / name)
    found = {(c.kind, Path(c.model).name) for c in find_candidates([tmp_path / "models"])}
    assert found >= {("text", "bert"), ("image", "registers"), ("image", "resnet"), ("audio", "builtin")}
    (tmp_path / "photos").mkdir()
    place = pairs_csv(tmp_path / "photos", world)
    code, output = call("init", place, "--models", tmp_path / "models", "--json", "out.json")
    assert code == 0, output
    told = json.loads(Path("out.json").read_text())
    assert {name: Path(model).name for name, model in told["encoders"].items()} == {
        "image": "registers",
        "text": "bert",
    }
    assert [line.partition(":")[0] for line in told["better"]] == ["image", "text"]
    (tmp_path / "models/registers/model.safetensors").write_bytes(b"torn")
    code, output = call("init", place, "--models", tmp_path / "models", "--json", "out.json", "--force")
    assert "cannot be used" in output
    assert Path(json.loads(Path("out.json").read_text())["encoders"]["image"]).name == "resnet"


def test_a_terminal_is_asked_and_answers_count(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    place = pairs_csv(tmp_path / "photos", world)
    (place / "captions.csv").write_text((place / "captions.csv").read_text().replace("picture", "a picture of it"))
    monkeypatch.setattr("lightcrl.commands.init.at_terminal", lambda: True)
    done = CliRunner().invoke(app, ["init", str(place)], input="title\nasked.toml\n")
    assert done.exit_code == 0, done.output
    assert tomllib.loads(Path("asked.toml").read_text())["data"]["columns"]["text"] == "title"
    assert CliRunner().invoke(app, ["init", str(place), "--yes", "--output", "b.toml"], input="").exit_code == 0
    assert tomllib.loads(Path("b.toml").read_text())["data"]["columns"]["text"] == "caption"


@pytest.mark.parametrize(
    ("cells", "content"),
    [
        (["a/1.jpg", "b.PNG", None], "image"),
        (["1.wav", "2.flac"], "audio"),
        ([[0.1, 0.2], [0.3, 0.4]], "vectors"),
        (["[0.1, 0.2]", "[0.3 0.4]"], "vectors"),
        ([["a dog runs", "two dogs run"], ["a cat sits", "a cat lies"]], "text"),
        (["train", "val", "test"], "split"),
        ([1, 2.5, "3"], "number"),
        ([f"x_{n}" for n in range(20)], "id"),
        (["cat", "dog"] * 20, "label"),
        (["the cat sat", "a dog ran"], "text"),
        ([{"bytes": b"\x89PNG...", "path": None}], "image"),
        ([b"RIFF....WAVEfmt "], "audio"),
        ([None, "", []], "other"),
        ([{"x": 1}], "other"),
    ],
)
def test_the_content_of_a_column_follows_from_its_cells(cells: list[Any], content: str) -> None:
    assert read_column("c", cells).content == content
