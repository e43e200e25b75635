"""What a user would pick instead, measured: photographs with captions, two frozen towers, from tables to R@1 on dev.

    python benchmarks/rivals/measure.py subset ../shared/data/flickr8k --work /tmp/rivals
    python benchmarks/rivals/measure.py lightcrl sentence-transformers --work /tmp/rivals --models ../shared/models
    python benchmarks/rivals/measure.py open-clip --work /tmp/rivals --python ENVIRONMENT/bin/python
    python benchmarks/rivals/measure.py report --work /tmp/rivals

Each side is a program of its own in this folder, as a user of that library writes it, with one thread. It writes the
vectors of dev, or figures; R@1 is computed from them by one function for all sides. open_clip and clip-retrieval want
torchvision and other versions of NumPy, so each has an environment of its own (`pip install "open_clip_torch[training]"
timm pandas`; `pip install clip-retrieval "setuptools<81"`, without its `dataclasses`). Processor time is given beside
wall-clock time, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lightcrl.metrics.retrieval import Retrieval

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src"


@dataclass(frozen=True)
class Side:
    """A program and its arguments; `{models}`, `{work}` and `{epochs}` are filled in.

    Attributes:
        program: file in this folder.
        arguments: its arguments.
        photos: true if it wants the pictures of dev as a folder.
    """

    program: str
    arguments: tuple[str, ...]
    photos: bool = False


SIDES = {
    "lightcrl": Side("with_lightcrl.sh", ("{models}",)),
    "sentence-transformers": Side("with_sentence_transformers.py", ("{models}", "{epochs}")),
    "open-clip": Side("with_open_clip.py", ("{models}", "{epochs}")),
    "lightcrl-index": Side("with_lightcrl_index.py", ("{work}/lightcrl/runs/mine",), photos=True),
    "clip-retrieval": Side(
        "with_clip_retrieval.py",
        ("{work}/open-clip/vit-minilm.json", "{work}/open-clip/out/run/checkpoints/epoch_latest.pt"),
        photos=True,
    ),
}


def write_subset(source: Path, work: Path, counts: dict[str, int]) -> None:
    """Write train.csv and dev.csv of the first photographs of each split."""
    work.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        captions: dict[str, list[str]] = {}
        for line in (source / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            captions.setdefault(row["image"], []).append(row["caption"])
        with (work / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "caption"])
            for image, texts in list(captions.items())[:count]:
                table.writerows([str((source / image).resolve()), text] for text in texts)


def lines_of(program: Path) -> int:
    """Return the number of lines that a user writes: without blank lines, comments and the docstring."""
    text = program.read_text()
    if text.startswith('"""'):
        text = text.split('"""', 2)[2]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def run(name: str, work: Path, models: Path, epochs: str, python: str) -> None:
    """Run a side in its own folder, and write what it took to measured.json there."""
    side, place = SIDES[name], work / name
    place.mkdir()
    for table in ("train.csv", "dev.csv"):
        (place / table).write_bytes((work / table).read_bytes())
    if side.photos:
        (place / "photos").mkdir()
        for path in dict.fromkeys(row["image"] for row in csv.DictReader((work / "dev.csv").open())):
            (place / "photos" / Path(path).name).symlink_to(path)
    program = HERE / side.program
    words = [argument.format(models=models, work=work, epochs=epochs) for argument in side.arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PATH"] = f"{Path(python).parent}:{environment['PATH']}"
    environment["LIGHTCRL_CACHE"] = str(place / "cache")
    environment["PYTHONPATH"] = str(SOURCES) if name.startswith("lightcrl") else ""
    start = time.perf_counter()
    with (place / "log.txt").open("w") as log:
        command = ["bash" if program.suffix == ".sh" else python, str(program), *words]
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}: {place / 'log.txt'}")
    given = {"train.csv", "dev.csv", "log.txt"}
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and path.name not in given]
    figures = {
        "lines": lines_of(program),
        "seconds": time.perf_counter() - start,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
        "disk": sum(path.stat().st_size for path in files),
        "epochs": epochs if "{epochs}" in side.arguments else "",
        **recall_of(place),
    }
    (place / "measured.json").write_text(json.dumps(figures, indent=1))
    print(name, json.dumps(figures))


def recall_of(place: Path) -> dict[str, float]:
    """Return R@1 in both directions from the figures or vectors that a side has left."""
    if (place / "queries.json").exists():
        return dict(json.loads((place / "queries.json").read_text()))
    if (metrics := place / "runs/mine/metrics.json").exists():
        figures = json.loads(metrics.read_text())["models"][0]["retrieval"]["metrics"]
        return {name: figures[f"{name}/recall@1"] for name in ("image_to_text", "text_to_image")}
    rows = list(csv.DictReader((place / "dev.csv").open()))
    images, texts = (list(dict.fromkeys(row[column] for row in rows)) for column in ("image", "caption"))
    every = [row["caption"] for row in rows]
    pairs = np.array([[texts.index(row["caption"]), images.index(row["image"])] for row in rows])
    links = {"image": np.stack([np.arange(len(images))] * 2, 1), "text": np.unique(pairs, axis=0)}
    vectors = {name: torch.from_numpy(np.load(place / f"{name}.npy").astype(np.float32)) for name in ("image", "text")}
    vectors["text"] = vectors["text"][[every.index(text) for text in texts]]
    metrics = Retrieval(links)(vectors).metrics
    return {name: metrics[f"{name}/recall@1"] for name in ("image_to_text", "text_to_image")}


def report(work: Path) -> None:
    """Print what was measured as a Markdown table."""
    columns = ("side", "lines", "core-minutes", "by the clock", "image to text", "text to image")
    print("| " + " | ".join((*columns, "disk, MiB", "memory, GiB", "query, ms")) + " |")
    print("|---" * 9 + "|")
    for path in sorted(work.glob("*/measured.json")):
        made = json.loads(path.read_text())
        cells = [
            path.parent.name + (f", epochs: {made['epochs']}" if made["epochs"] else ""),
            made["lines"],
            *(f"{made[name] / 60:.1f}" for name in ("processor", "seconds")),
            *(f"{100 * made[name]:.1f}" if name in made else "" for name in ("image_to_text", "text_to_image")),
            f"{made['disk'] / 2**20:,.0f}",
            f"{made['memory'] / 2**30:.1f}",
            f"{1000 * made['query']:.1f}" if "query" in made else "",
        ]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help=f"subset FOLDER, report, or sides: {', '.join(SIDES)}")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--python", default=sys.executable, help="interpreter of the side's environment")
    parser.add_argument("--epochs", default="2", help="epochs of the sides that run the towers on every step")
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--dev", type=int, default=200)
    given = parser.parse_args()
    work = given.work.resolve()
    if given.what[0] == "subset":
        write_subset(Path(given.what[1]), work, {"train": given.train, "dev": given.dev})
    elif given.what == ["report"]:
        report(work)
    else:
        for name in given.what:
            run(name, work, given.models.resolve(), given.epochs, given.python)


if __name__ == "__main__":
    main()
