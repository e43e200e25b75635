"""Processor seconds until dev mean R@1 reaches a goal, for three programs with the same frozen encoders.

    for part in lightcrl curve rates; do
        python benchmarks/time_to_recall.py ../shared --work runs/time_to_recall --part $part
    done

- `lightcrl`: recipes/flickr8k.toml with its defaults, seed 0; this library encodes once, and trains until `--goal`.
- `sentence-transformers`: both encoders frozen behind a Router, CLS and mean (pictures) and the mean (texts) of the
  last layer, a Dense of 256 for each, MultipleNegativesRankingLoss in both directions, its trainer, bfloat16.
- `plain`: a loop in torch that runs both encoders in float32 on each batch and trains the same two maps.

The last two run the encoders at every step, which takes hours for a curve. So their steps are timed in the programs
themselves (part `rates`), and the number of steps to a goal is counted on stored outputs of the same last layers (part
`curve`: the same maps, loss and batches, no picture twice in a batch, the best of several rates and batch sizes).
Their time is the product; it leaves out their evaluations, and is marked as extrapolated. Encoding of the library is
extrapolated from a sample in the same way if the stores are there already. Times are processor seconds of one thread,
which other programs on the machine change less than the clock. Each part writes a JSON file below `--work`; the last
line is the table of all parts so far.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lightcrl.data import Item, load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.features import Features
from lightcrl.features.embed import split_links
from lightcrl.features.encoding import encode_items
from lightcrl.files.local import write_json
from lightcrl.metrics.retrieval import Retrieval, mean_recall
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, load_recipe

SCALE = 20.0
WIDTH = 256
# Batch size, peak rate and steps of each curve of the last layers' outputs.
CURVES = ((128, 5e-3, 1000), (512, 1e-2, 500), (128, 2e-3, 1000), (128, 3e-3, 700))
EVERY = 50
SAMPLE = {"image": 64, "text": 1024}


class ReachedError(Exception):
    """The goal is reached: the training ends."""


def recipe_of(shared: Path, folder: str) -> Recipe:
    """Return recipes/flickr8k.toml on the data and models below `shared`."""
    data, models = shared / "data/flickr8k", shared / "models"
    changes = [
        f"data.train={data}/train.jsonl",
        f"data.dev={data}/dev.jsonl",
        f"encoders.image.model={models}/vit-tiny-patch16-224",
        f"encoders.text.model={models}/all-MiniLM-L6-v2",
        f"features.folder={folder}",
    ]
    return load_recipe(Path(__file__).parents[1] / "recipes" / "flickr8k.toml", changes)


def train_to_goal(recipe: Recipe, work: Path, goal: float) -> dict[str, Any]:
    """Train with the defaults until dev mean R@1 is `goal`; return the curve [step, R@1, seconds].

    A run that was stopped resumes, and so do its seconds, as of its last evaluation.
    """
    features, encoders, _ = prepare(recipe)
    file = work / "lightcrl.json"
    curve = json.loads(file.read_text())["curve"] if file.exists() else []
    begun = time.process_time() - (curve[-1][2] if curve else 0)

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "evaluation":
            curve.append((event["step"], event["dev_mean_recall@1"], time.process_time() - begun))
            print(curve[-1], flush=True)
            write_json(file, {"curve": curve})
            if curve[-1][1] >= goal:
                raise ReachedError

    with suppress(ReachedError):
        train_method(recipe, recipe.method, 0, work / "run", features, encoders, watch)
    return {"curve": curve}


def last_layers(features: Features) -> dict[str, Tensor]:
    """Return the outputs of the last layers [N, 384]: CLS and mean of pictures, the mean of captions."""
    stores = {name: features.store(name).in_memory() for name in ("image", "text")}
    slots = {name: store.gather(np.arange(store.rows), sequence=False).values.float() for name, store in stores.items()}
    return {"image": slots["image"][:, :2].flatten(1), "text": slots["text"][:, 0]}


def curve_of(features: Features, batch: int, rate: float, steps: int) -> list[tuple[int, float]]:
    """Return steps and dev mean R@1 of two linear maps trained on stored outputs."""
    outputs, train, dev = last_layers(features), features.split("train"), features.split("dev")
    retrieval = Retrieval(split_links(dev))
    torch.manual_seed(0)
    maps = nn.ModuleDict({name: nn.Linear(values.shape[1], WIDTH) for name, values in outputs.items()})
    optimizer = torch.optim.AdamW(maps.parameters(), lr=rate)
    warm = max(1, steps // 10)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / (steps - warm)))
    )
    generator, curve = np.random.default_rng(0), list[tuple[int, float]]()
    for step in range(1, steps + 1):
        groups = generator.permutation(len(train))[:batch]
        rows = {
            name: items.rows[items.starts[groups] + generator.integers(items.counts[groups])]
            for name, items in train.members.items()
        }
        left, right = (normalize(maps[name](outputs[name][rows[name]]), dim=-1) for name in ("image", "text"))
        logits, same = SCALE * left @ right.T, torch.arange(batch)
        loss = (cross_entropy(logits, same) + cross_entropy(logits.T, same)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % EVERY == 0:
            with torch.no_grad():
                vectors = {
                    name: normalize(maps[name](outputs[name][np.unique(items.rows)]), dim=-1)
                    for name, items in dev.members.items()
                }
            curve.append((step, mean_recall(retrieval.per_query(vectors))))
    return curve


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the processor seconds of a call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def plain_step(recipe: Recipe, items: Mapping[str, list[Item]], batch: int) -> Callable[[], None]:
    """Return a step of a loop that runs both encoders, in float32, on items decoded anew."""
    encoders = {
        name: load_encoder(spec.model_copy(update={"dtype": "float32"})) for name, spec in recipe.encoders.items()
    }
    maps = nn.ModuleDict({name: nn.Linear(384, WIDTH) for name in encoders})
    optimizer = torch.optim.AdamW(maps.parameters())

    def step() -> None:
        vectors = {}
        for name, encoder in encoders.items():
            slots = encoder.encode([encoder.prepare(item.read()) for item in items[name][:batch]]).values
            pooled = slots[:, :2].flatten(1) if name == "image" else slots[:, 0]
            vectors[name] = normalize(maps[name](pooled), dim=-1)
        logits = SCALE * vectors["image"] @ vectors["text"].T
        loss = cross_entropy(logits, torch.arange(batch)) + cross_entropy(logits.T, torch.arange(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rival_seconds(shared: Path, work: Path, items: Mapping[str, list[Item]], batch: int, steps: int) -> float:
    """Return seconds of a step of sentence-transformers' own trainer: the median of all but the first."""
    from datasets import Dataset, Image
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, Transformer
    from transformers import TrainerCallback

    vision = Transformer(str(shared / "models/vit-tiny-patch16-224"))
    language = Transformer(str(shared / "models/all-MiniLM-L6-v2"))
    for encoder in (vision, language):
        encoder.requires_grad_(False)
    routes = {
        "image": [vision, Pooling(192, ("cls", "mean")), Dense(384, WIDTH, activation_function=None)],
        "text": [language, Pooling(384, "mean"), Dense(384, WIDTH, activation_function=None)],
    }
    model = SentenceTransformer(modules=[Router(routes), Normalize()])
    count = batch * steps
    rows = {name: [str(item.read()) for item in islice(each, count)] for name, each in items.items()}
    data = Dataset.from_dict({"image": rows["image"], "caption": rows["text"]}).cast_column("image", Image())
    times = list[float]()

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.process_time())

    settings = SentenceTransformerTrainingArguments(
        str(work / "rival"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        bf16=True,
        use_cpu=True,
        router_mapping={"image": "image", "caption": "text"},
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = MultipleNegativesRankingLoss(
        model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    SentenceTransformerTrainer(model, settings, train_dataset=data, loss=loss, callbacks=[Clock()]).train()
    times.append(time.process_time())
    return float(np.median(np.diff(times)[1:] if steps > 1 else np.diff(times)))


def rates(recipe: Recipe, shared: Path, work: Path, batch: int, steps: int) -> dict[str, Any]:
    """Return seconds of a step of both rivals, and of an encoded item of this library."""
    dataset = load_dataset(recipe.data, recipe.kinds)
    figures: dict[str, Any] = {"batch": batch, "items": {name: len(items) for name, items in dataset.items.items()}}
    figures["encoding"] = {}
    for name, spec in recipe.encoders.items():
        encoder, items = load_encoder(spec), dataset.items[name][: SAMPLE[name]]
        list(encode_items(encoder, items[:8]))
        figures["encoding"][name] = seconds_of(lambda: list(encode_items(encoder, items))) / len(items)  # noqa: B023
        print(figures, flush=True)
    step = plain_step(recipe, dataset.items, batch)
    figures["plain"] = min(seconds_of(step) for _ in range(2))
    print(figures, flush=True)
    figures["sentence-transformers"] = rival_seconds(shared, work, dataset.items, batch, steps)
    return figures


def table(work: Path, goals: list[float]) -> str:
    """Return the table of seconds to each goal from the parts that are there."""
    parts = {path.stem: json.loads(path.read_text()) for path in work.glob("*.json")}
    lines = ["| goal | program | steps | training, s | with encoding, s |", "|---|---|---|---|---|"]
    speeds = parts.get("rates", {})
    encoding = sum(seconds * speeds["items"][name] for name, seconds in speeds.get("encoding", {}).items())
    for goal in goals:
        reached = [point for point in parts.get("lightcrl", {}).get("curve", []) if point[1] >= goal][:1]
        for step, _, seconds in reached:
            lines.append(f"| {goal} | lightcrl | {step} | {seconds:,.0f} | {seconds + encoding:,.0f} |")
        needed = [
            (min(step for step, recall in entry["curve"] if recall >= goal), entry["batch"])
            for entry in parts.get("curve", {}).get("curves", [])
            if entry["curve"] and max(recall for _, recall in entry["curve"]) >= goal
        ]
        for name in ("sentence-transformers", "plain"):
            if needed and name in speeds:
                step, batch = min(needed, key=lambda pair: pair[0] * pair[1])
                seconds = step * batch / speeds["batch"] * speeds[name]
                lines.append(f"| {goal} | {name}, extrapolated | {step} of {batch} pairs | {seconds:,.0f} | the same |")
    return "\n".join(lines)


def main() -> None:
    """Run a part, and print the table of all parts so far."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=("lightcrl", "curve", "rates"), required=True)
    parser.add_argument("--features", help="folder of feature stores; below --work by default")
    parser.add_argument("--goal", type=float, default=0.39)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of sentence-transformers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(given.shared.resolve(), given.features or str(given.work / "features"))
    if given.part == "lightcrl":
        figures = train_to_goal(recipe, given.work, given.goal)
    elif given.part == "curve":
        features, *_ = prepare(recipe)
        figures = {"curves": list[dict[str, Any]]()}
        for batch, rate, steps in CURVES:
            curve = curve_of(features, batch, rate, steps)
            figures["curves"].append({"batch": batch, "rate": rate, "steps": steps, "curve": curve})
            print(batch, rate, max(recall for _, recall in curve), flush=True)
            write_json(given.work / "curve.json", figures)
    else:
        figures = rates(recipe, given.shared.resolve(), given.work, given.batch, given.steps)
    write_json(given.work / f"{given.part}.json", figures)
    print(table(given.work, [0.3, 0.33, given.goal]))


if __name__ == "__main__":
    main()
