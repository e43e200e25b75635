"""An epoch on stored features compared with an epoch as published, which runs the frozen encoders at every step.

    python benchmarks/training.py recipes/flickr8k.toml

Stored: the recipe's method in its own loop; the median time of a step, gathering included, times the steps of an
epoch. Published: each pair of a picture (or sound) and a text goes through its encoders, in float32, in batches of
`--batch` in the given order; `--batches` of them are measured, alternating with stretches of the stored side, without
the trained network. An epoch shows every text once, with its picture. The table also has the matrix products of a
step as a share of the machine's rate in their precision (the roofline: all other work counted as free).
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import roofline
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightcrl.data import load_dataset
from lightcrl.encoders import Encoder, load_encoder
from lightcrl.features import Features
from lightcrl.files.local import write_json
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, load_recipe

PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_", "aten::baddbmm")


class Limit(TorchDispatchMode):
    """A counter of the operations of matrix products by precision, and of the least time of all calls.

    The least time of a call is the longer of two: its products at the machine's rate, and the transfer of its operands
    and results at the rate of memory. Views take no time.
    """

    def __init__(self, limits: roofline.Limits) -> None:
        super().__init__()
        self.limits = limits
        self.operations: Counter[str] = Counter()
        self.seconds = 0.0

    def __torch_dispatch__(self, call: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = call(*args, **(kwargs or {}))
        given = [value for value in args if isinstance(value, torch.Tensor)]
        outputs = result if isinstance(result, tuple) else [result]
        made = [value for value in outputs if isinstance(value, torch.Tensor)]
        products = 0.0
        if call.name().partition(".")[0] in PRODUCTS:
            left, right = given[-2:]
            dtype = str(left.dtype).removeprefix("torch.")
            operations = 2 * left.numel() * right.shape[-1]
            self.operations[dtype] += operations
            products = operations / getattr(self.limits, dtype, self.limits.float32)  # float64 is not part of a step
        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        view = call.is_view or all(tensor.untyped_storage().data_ptr() in storages for tensor in made)
        moved = 0
        if (not view or call._schema.is_mutable) and "empty" not in call.name():
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
        self.seconds += max(products, moved / self.limits.memory)
        return result


class Stored:
    """The recipe's training, which runs some steps at a time."""

    def __init__(self, recipe: Recipe, features: Features, encoders: Mapping[str, Encoder], folder: Path) -> None:
        self.recipe, self.features, self.encoders, self.folder = recipe, features, encoders, folder
        self.runs = 0
        self.plan: dict[str, Any] = {}

    def steps(self, epochs: int, look: Callable[[], float] = perf_counter) -> list[float]:
        """Yield the increase of `look`, in seconds, from each step to the next of a fresh training."""
        training = self.recipe.training.model_copy(
            update={"epochs": epochs, "evaluate_every": epochs, "tensorboard": False}
        )
        times: list[float] = []

        def report(event: Mapping[str, Any]) -> None:
            if event["event"] == "start":
                self.plan = dict(event)
            if event["event"] == "step":
                times.append(look())

        recipe = self.recipe.model_copy(update={"training": training})
        self.runs += 1
        train_method(
            recipe, recipe.method, 0, self.folder / str(self.runs), self.features, self.encoders, report=report
        )
        return np.diff(times).tolist()


class Published:
    """The published procedure: pairs through the encoders, batch after batch."""

    def __init__(self, recipe: Recipe, size: int) -> None:
        dataset = load_dataset(recipe.data, recipe.kinds)
        plain = {name: spec.model_copy(update={"dtype": "float32"}) for name, spec in recipe.encoders.items()}
        self.encoders = {name: load_encoder(spec) for name, spec in plain.items()}
        by_group = {name: dict(zip(links[:, 1], links[:, 0], strict=True)) for name, links in dataset.links.items()}
        groups = [number for number, split in enumerate(dataset.splits) if split == "train"]
        self.items = {name: [dataset.items[name][by_group[name][group]] for group in groups] for name in plain}
        self.size, self.at = size, 0
        # An epoch shows every item of the richest modality once.
        train = np.isin(np.arange(len(dataset.splits)), groups)
        self.pairs = max(int(train[links[:, 1]].sum()) for links in dataset.links.values())

    def batch(self) -> float:
        """Return the seconds of the next batch."""
        place = slice(self.at, self.at + self.size)
        self.at = (self.at + self.size) % (len(next(iter(self.items.values()))) - self.size)
        begun = perf_counter()
        for name, encoder in self.encoders.items():
            encoder.encode([encoder.prepare(item.read()) for item in self.items[name][place]])
        return perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--epochs", type=int, default=1, help="of each stretch of training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=2, help="of the published way, in each round")
    parser.add_argument("--batch", type=int, default=64, help="pairs in each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--json", help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = load_recipe(given.recipe, given.set)
    limits = roofline.measure(given.threads)
    features, encoders, _ = prepare(recipe)
    published = Published(recipe, given.batch)
    steps: list[float] = []
    batches: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        stored = Stored(recipe, features, encoders, Path(folder))
        counts: list[Counter[str]] = []
        with Limit(limits) as limit:

            def look() -> float:
                counts.append(limit.operations.copy())
                return limit.seconds

            every = median(stored.steps(1, look))
        published.batch()
        for _ in range(given.rounds):
            steps += stored.steps(given.epochs)
            batches += [published.batch() for _ in range(given.batches)]
    per_epoch = stored.plan["steps_per_epoch"]
    operations = {
        name: (count - counts[0][name]) / (len(counts) - 1)
        for name, count in counts[-1].items()
        if count > counts[0][name]
    }
    least = sum(count / getattr(limits, name) for name, count in operations.items())
    one, other = median(steps) * per_epoch, median(batches) / given.batch * published.pairs
    print("| way | step | pairs | ms | epoch, s | ratio |")
    print("|---|---|---|---|---|---|")
    groups = f"{stored.plan['batch_size']} x {stored.plan['items_per_group']}"
    for cells in (
        ("published", "encoders alone", given.batch, 1000 * median(batches), other, other / one),
        ("stored features", recipe.method.name, groups, 1000 * median(steps), one, 1.0),
    ):
        way, what, pairs, milliseconds, seconds, ratio = cells
        print(f"| {way} | {what} | {pairs} | {milliseconds:,.0f} | {seconds:,.1f} | {ratio:,.0f} |")
    shown = ", ".join(f"{count / 1e9:.1f} GFLOP {name}" for name, count in operations.items())
    print(f"\nmatrix products of a step: {shown}")
    for what, time in (("at the machine's rate", least), ("every call at its own limit, products or memory,", every)):
        print(f"{what} would take {1000 * time:,.0f} ms, {time / median(steps):.0%} of a step")
    if given.json:
        figures = {"steps": steps, "batches": batches, "plan": stored.plan, "operations": operations}
        machine = {"threads": given.threads, "limits": vars(limits), "pairs": published.pairs}
        write_json(Path(given.json), {**machine, **figures})


if __name__ == "__main__":
    main()
