"""Pictures drawn of prompts whose combination of shape, colour and count was never seen, judged by a classifier.

    lightcrl run recipes/unclip_world.toml
    python benchmarks/imagine_world.py runs/unclip_world --output runs/imagined

The classifier is a small convolutional network, trained on true pictures of other scenes of the world, all combinations
included; it has no part in the model. It is trained once, in steps that can be stopped. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lightcrl
from lightcrl.data.synthetic import ATTRIBUTES, Scene, describe, draw, unseen_combinations
from lightcrl.heads.drawing.head import read_pixels
from lightcrl.imaginer import Imaginer

JUDGED = ("shape", "colour", "count")
SEED = 977
"""Seed of the classifier's scenes, which the world's own, 0, does not share."""


class Classifier(nn.Module):
    """Four convolutions with strides, and a linear layer for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers = [
            layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
        ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU(), nn.Dropout(0.2))
        self.ends = nn.ModuleDict({name: nn.Linear(128, len(ATTRIBUTES[name])) for name in JUDGED})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self.body(pixels)
        return {name: end(values) for name, end in self.ends.items()}


def true_pictures(count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    scenes = [Scene.random(np.random.default_rng((seed, number))) for number in range(count)]
    pictures = [read_pixels(draw(scene, (seed, number, 1)), 64) for number, scene in enumerate(scenes)]
    return np.stack(pictures), scenes


def as_input(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def labels_of(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([ATTRIBUTES[name].index(getattr(each, name)) for each in scenes]) for name in JUDGED}


def train_classifier(folder: Path, count: int, epochs: int) -> Classifier:
    """A classifier, continued after its last finished epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, state = Classifier(), folder / "classifier.pt"
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-3)
    done = 0
    if state.exists():
        kept = torch.load(state)
        model.load_state_dict(kept["model"]), optimiser.load_state_dict(kept["optimiser"])
        done = kept["epochs"]
    if done < epochs:
        cache = folder / "pictures.npz"
        if not cache.exists():
            np.savez(cache, true_pictures(count, SEED)[0])
        pixels = as_input(np.load(cache)["arr_0"])
        labels = labels_of([Scene.random(np.random.default_rng((SEED, number))) for number in range(count)])
    for epoch in range(done, epochs):
        model.train()
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - epoch / epochs)
        for part in torch.from_numpy(np.random.default_rng(epoch).permutation(count)).split(64):
            logits = model(pixels[part] + 0.03 * torch.randn(1))
            sum(cross_entropy(logits[name], labels[name][part]) for name in JUDGED).backward()
            optimiser.step(), optimiser.zero_grad()
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}, state)
    return model.eval()


@torch.inference_mode()
def judge(model: Classifier, pixels: np.ndarray, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Which attributes the classifier sees as the scenes have them; `all` is all three."""
    logits = model(as_input(pixels))
    right = {name: (logits[name].argmax(1) == labels).numpy() for name, labels in labels_of(scenes).items()}
    return right | {"all": np.logical_and.reduce(list(right.values()))}


def prompts(count: int, unseen: float) -> tuple[list[str], list[Scene]]:
    """Texts that name shape, colour and count, of scenes with combinations that no training picture has."""
    rng, barred = np.random.default_rng(5), sorted(unseen_combinations(unseen))
    texts, scenes = [], []
    while len(texts) < count:
        shape, colour, number = barred[len(texts) % len(barred)]
        scene = replace(Scene.random(rng), shape=shape, colour=colour, count=number)
        while not names_colour(text := describe(scene, rng), colour):
            pass
        texts.append(text), scenes.append(scene)
    return texts, scenes


def names_colour(text: str, colour: str) -> bool:
    from lightcrl.data.synthetic.caption import COLOURS

    return any(word in text.split() for word in COLOURS[colour])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, default=Path("runs/imagined"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--draws", type=int, nargs="*", default=[1, 2, 4], help="pictures drawn for each one")
    parser.add_argument("--pictures", type=int, default=8000, help="true pictures that the classifier learns from")
    parser.add_argument("--epochs", type=int, default=12, help="of the classifier")
    args = parser.parse_args()
    classifier = train_classifier(args.output, args.pictures, args.epochs)
    imaginer = Imaginer(lightcrl.load(args.model, device="cpu"))
    unseen = imaginer.embedder.checkpoint.recipe["data"]["options"]["unseen"]
    texts, scenes = prompts(args.prompts, unseen)
    true = np.stack([read_pixels(draw(scene, (7, number)), 64) for number, scene in enumerate(scenes)])
    kinds = {"true pictures": judge(classifier, true, scenes)}
    print(f"{args.prompts} prompts, {100 * unseen:.0f} % of all combinations never seen\n")
    print("| pictures | shape | colour | count | all three |\n|---|---|---|---|---|")
    for draws in args.draws:
        for label, words in {"prior and words": False, "words alone": True}.items():
            pictures = imaginer.imagine(texts, draws=draws, words=words)
            pixels = np.stack([np.asarray(made[0]) for made in pictures])
            kinds[f"{label}, the nearest of {draws}"] = judge(classifier, pixels, scenes)
            np.save(args.output / f"{'words' if words else 'prior'}-{draws}.npy", pixels)
    for name, right in kinds.items():
        print(f"| {name} | " + " | ".join(f"{right[key].mean():.3f}" for key in (*JUDGED, "all")) + " |")
    (args.output / "figures.json").write_text(
        json.dumps({name: {key: float(each.mean()) for key, each in right.items()} for name, right in kinds.items()})
    )


if __name__ == "__main__":
    main()
