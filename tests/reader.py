"""The folders of readers who type the commands of the docs: small files under the names that the pages use.

Each function `of_...` fills the current folder for the story of that name in `stories.txt`. The project's recipes come
as copies whose worlds and trainings are small; what they expect in `../shared` is generated.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import lightcrl
import tiny
from lightcrl.data.synthetic import write_class_folder, write_table
from recipes import NARROW

PROJECT = Path(__file__).parents[1]
TRAIN, DEV, TEST = slice(0, 100), slice(100, 120), slice(120, 132)
DATA = '[data]\ntrain = "train.jsonl"\ndev = "dev.jsonl"'
MODEL = "[method]\ndim = 16\nheads = 2\nfeedforward = 8\n[training]\nepochs = 2\ntensorboard = false\n"
CAPTIONER = '[heads.captioning]\ndecoder = "retrieval"\nheld_out = 0.0\n'
# What the copies of the project's recipes have in place of their own numbers.
SMALL = {"groups": 60, "epochs": 2, "batch_size": 16, "evaluate_every": 1, "dim": 16, "feedforward": 16, "width": 16}
# What they have beside the lines of a large head.
SMALL_HEADS = {
    'decoder = "transformer"': "width = 16\nheads = 2\nblocks = 1\nfeedforward = 16\ntraining = { epochs = 1 }",
    "[heads.drawing.training]": "[heads.drawing]\nsize = 16\nwidth = 16\nchannels = 8\nsteps = 3\njudged = 4",
}


def encoders(*names: str, **models: str) -> str:
    """Tables of built-in encoders, and of models in folders, by modality."""
    tables = [f'[encoders.{name}]\nkind = "{name}"\nmodel = "builtin"\noptions = {options(name)}\n' for name in names]
    return "".join(tables + [f'[encoders.{name}]\nkind = "{name}"\nmodel = "{at}"\n' for name, at in models.items()])


def options(kind: str) -> str:
    return "{ " + ", ".join(f"{key} = {value}" for key, value in NARROW[kind].items()) + " }"


def write(name: str, *parts: str) -> None:
    Path(name).write_text("\n".join(parts))


def write_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    write(name, *(json.dumps(row) for row in rows))


def photographs() -> list[dict[str, Any]]:
    """`photos/` with a table, pictures and sounds, and `train`, `dev` and `test.jsonl` of one caption per line."""
    if not (world := Path("../world")).exists():
        write_table(world, TEST.stop)
    shutil.copytree(world, "photos")
    rows = [json.loads(line) for line in Path("photos/groups.jsonl").read_text().splitlines()]
    for name, part in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        pairs = [{"image": f"photos/{row['image']}", "text": text} for row in rows[part] for text in row["text"]]
        write_lines(f"{name}.jsonl", pairs)
    return rows


def shrink(setting: re.Match[str]) -> str:
    return f"{setting[1]} = {SMALL[setting[1]]}"


def copies_of_recipes() -> None:
    """`recipes/`, in which every world has at most 60 groups, and every training at most two epochs."""
    for path in (PROJECT / "recipes").rglob("*"):
        place = Path(path.relative_to(PROJECT))
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".toml":
            text = re.sub(rf"\b({'|'.join(SMALL)}) = \d+", shrink, path.read_text())
            short = "" if "[training]" in text or "[encoders" not in text else "\n[training]\nepochs = 2\n"
            for line, small in SMALL_HEADS.items():
                text = text.replace(line, f"{small}\n{line}")
            place.write_text(text + short)
        elif path.is_file():
            shutil.copy(path, place)


def of_photographs() -> None:
    """Own photographs: README, docs/get_started.md, first_recipe.md, search.md, imagine.md, scale.md."""
    rows = photographs()
    (dogs := Path("photos/dogs")).mkdir()
    shutil.copy(f"photos/{rows[-1]['image']}", dogs / "17.jpg")
    shutil.copy("photos/images/000005.png", "beach.jpg")
    shutil.copytree("photos/images", "pictures")
    for seed, name in enumerate(("classes", "train", "test")):
        write_class_folder(name, per_class=2, seed=seed)
    write("my.toml", DATA, encoders("image", "text"), MODEL)
    with Path("my.toml").open("a") as file:
        file.write('[heads.prior]\nmodel = "ridge"\n')
    write("recipe.toml", DATA, encoders("image", "text"))
    Path("runs").mkdir()
    for name in ("dfe1", "dfe2", "dfe3"):
        Path("runs", name).symlink_to("recipe")
    recipe = ('partners = ["text"]\n[data]\npath = "photos/groups.jsonl"', encoders("audio"), "[training]\nepochs = 2")
    write("sound.toml", *recipe)
    with Path("catalogue.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sku", "picture", "title", "price", "season", "sold_out"])
        for number, row in enumerate(rows[:40]):
            season = ("winter", "summer")[number % 2]
            table.writerow(
                [f"A-{number:03}", f"photos/{row['image']}", row["text"][0], 60 + number, season, int(number % 4 == 0)]
            )


def of_a_folder() -> None:
    """A folder of photographs with a table of captions, and models on the machine: docs/first_recipe.md."""
    tiny.vit(Path("models/vit"), blocks=3), tiny.bert(Path("models/bert"), blocks=3)
    table = write_table("photos", 16, captions=1)
    shutil.rmtree("photos/sounds")
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    write_lines(str(table), [{"image": row["image"], "text": row["text"][0]} for row in rows])
    shutil.copytree("photos", "TABLE_OR_FOLDER")


def of_heads() -> None:
    """Models to which heads are added: docs/heads.md, captions.md, imagine.md."""
    photographs()
    copies_of_recipes()
    write("my.toml", DATA, encoders("image", "text"), MODEL, CAPTIONER)
    lightcrl.run("my.toml", output="runs/mine")
    Path("more").mkdir()
    shutil.copy("photos/images/000003.png", "more/dog.jpg")
    for name in ("runs/flickr8k", "runs/captioned", "MODEL"):
        shutil.copytree("runs/mine", name)
    shutil.copy("recipes/heads/matching.toml", "RECIPE.toml")


def of_cleaning() -> None:
    """A recipe with a captioner, and data in which every sixth caption is another picture's: docs/cleaning.md."""
    rows = photographs()[TRAIN]
    texts = [text for row in rows for text in row["text"]]
    spoilt = [texts[(number + 150) % len(texts)] if number % 6 == 0 else text for number, text in enumerate(texts)]
    pairs = zip([row["image"] for row in rows for _ in row["text"]], spoilt, strict=True)
    write_lines("spoilt.jsonl", [{"image": f"photos/{image}", "text": text} for image, text in pairs])
    data = '[data]\ntrain = "spoilt.jsonl"\ndev = "dev.jsonl"'
    write("RECIPE.toml", 'output = "runs/NAME"', data, encoders("image", "text"), MODEL, CAPTIONER)


def of_classes() -> None:
    """A model whose picture encoder is a transformer, and class folders: docs/recipes.md, tasks.md."""
    photographs()
    tiny.vit(Path("vit"), blocks=3)
    write("my.toml", DATA, encoders("text", image="vit"), MODEL)
    lightcrl.run("my.toml", output="runs/mine")
    for name in ("cifar10", "cifar100"):
        for split in ("train", "test"):
            write_class_folder(f"{name}/{split}", per_class=2)
            for shape in Path(name, split).iterdir():
                if shape.name not in ("circle", "star", "heart"):
                    shutil.rmtree(shape)
    for split in ("train", "test"):
        shutil.copytree(f"cifar10/{split}", split)


def of_sounds() -> None:
    """Recordings, two models of sounds, and classes of sounds: docs/search.md, recipes.md."""
    rows = photographs()
    write("sounds.toml", '[data]\npath = "photos/groups.jsonl"\ndev_fraction = 0.2', encoders("audio", "text"), MODEL)
    lightcrl.run("sounds.toml", output="runs/sounds")
    shutil.copytree("runs/sounds", "runs/sound_text")
    shutil.copytree("photos/sounds", "recordings")
    shutil.copy("photos/sounds/000002.wav", "siren.wav")
    for number, row in enumerate(rows[:20]):
        folder = Path("esc10", ("rain", "siren")[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("photos", row["audio"]), folder / f"{number // 4 + 1}-{number}.wav")


def of_pairs() -> None:
    """Two readers of texts, and labelled pairs: docs/recipes.md."""
    rows = photographs()
    columns = '[data]\npath = "photos/groups.jsonl"\ncolumns = { left = "text", right = "text" }\ndev_fraction = 0.2'
    tables = encoders("text")
    left, right = (tables.replace("encoders.text", f"encoders.{name}") for name in ("left", "right"))
    write("pairs.toml", columns, left, right, MODEL)
    lightcrl.run("pairs.toml", output="runs/text_text")
    for name, part in (("train", TRAIN), ("test", slice(TRAIN.stop, TEST.stop))):
        texts = [row["text"] for row in rows[part]]
        alike = [{"text1": text[0], "text2": text[1], "label": 1} for text in texts]
        others = [{"text1": a[0], "text2": b[1], "label": 0} for a, b in pairwise(texts)]
        write_lines(f"{name}.jsonl", alike + others)


def of_vectors() -> None:
    """Embeddings of another team, and a feature store in the cache: docs/vectors.md."""
    rng = np.random.default_rng(0)
    maps = {"image": rng.normal(size=(8, 24)), "text": rng.normal(size=(8, 16)), "audio": rng.normal(size=(8, 12))}

    def made(count: int) -> dict[str, np.ndarray]:
        hidden = rng.normal(size=(count, 8))
        return {name: (hidden @ turn).astype(np.float32) for name, turn in maps.items()}

    for folder, count in (("emb", 60), ("emb/test", 20)):
        for name, values in made(count).items():
            place = Path(folder, f"{'img' if name == 'image' else name}_emb")
            place.mkdir(parents=True)
            np.save(place / f"{place.name}_0.npy", values)
        Path(folder, "metadata").mkdir()
        write_lines(f"{folder}/metadata/metadata_0.jsonl", [{"name": f"n{row}"} for row in range(count)])
    test = made(20)
    np.save("test.npy", test["text"])
    write("test.json", json.dumps([f"c{row}" for row in range(20)]))
    with Path("test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text"])
        table.writerows([json.dumps(vector.tolist()), f"c{row}"] for row, vector in enumerate(test["image"]))
    np.save("queries.npy", made(5)["text"])
    data = '[data]\nsource = "vectors"\npath = "emb"\ndev_fraction = 0.3'
    kinds = {name: f'[encoders.{name}]\nkind = "vectors"\nmodel = "theirs"' for name in maps}
    write("my.toml", data, kinds["image"], kinds["text"], MODEL)
    lightcrl.run("my.toml", output="runs/mine")
    write("sounds.toml", 'partners = ["text"]', data, kinds["audio"], "[training]\nepochs = 2")
    (store,) = Path("~/.cache/lightcrl/features").expanduser().glob("text-*")
    store.rename(store.with_name("text-0123"))


def of_growth() -> None:
    """Models that grow: docs/extending_a_space.md."""
    of_flickr8k()
    recipe = Path("recipes/flickr8k.toml").read_text()
    write("old.toml", recipe[: recipe.index("[encoders.image]")].replace("../../shared", "../shared"))
    with Path("old.toml").open("a") as file:
        file.write(encoders("image", "text") + MODEL)
    lightcrl.run("old.toml", output="runs/mine")


def of_the_hub() -> None:
    """A model whose text encoder is on the hub: docs/bridges.md."""
    photographs()
    at = "sentence-transformers/all-MiniLM-L6-v2"
    write("my.toml", DATA, encoders("image", text=at), MODEL)
    lightcrl.run("my.toml", output="runs/mine")


def of_flickr8k() -> None:
    """Stand-ins of `shared/`, where the recipes of this project expect their photographs and models."""
    copies_of_recipes()
    own = Path("recipes/flickr8k.toml").read_text().replace("../../shared", "../shared")
    write("flickr1k.toml", own[: own.index("[method]")].replace('"flickr8k"', '"flickr1k"'), "[training]\nepochs = 2")
    shared = Path("../shared")
    if shared.exists():
        return
    table = write_table(shared / "data/flickr8k", 120)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for name, part in (("train", slice(0, 100)), ("dev", slice(100, 120))):
        pairs = [{"image": row["image"], "caption": text} for row in rows[part] for text in row["text"]]
        write_lines(str(shared / f"data/flickr8k/{name}.jsonl"), pairs)
    write_class_folder(shared / "data/cifar10/test", per_class=2)
    tiny.vit(shared / "models/vit-tiny-patch16-224")
    tiny.bert(shared / "models/all-MiniLM-L6-v2")
