"""unCLIP's prior on a model: does it close the modality gap, and does that help retrieval and captions from text?

    python benchmarks/prior.py runs/flickr8k --output runs/priors
    python benchmarks/prior.py runs/flickr8k --output runs/priors --stores image=DIR text=DIR

Trains each prior (ridge, mlp, flow) on the frozen space, and measures it on dev. A finished part is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

import lightcrl
from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec, load_dataset
from lightcrl.features import Features, FeatureStore
from lightcrl.features.embed import embed_rows
from lightcrl.features.spec import FeaturesSpec
from lightcrl.heads.base import Material
from lightcrl.heads.captioning.head import CaptioningOptions, captioned
from lightcrl.heads.captioning.retrieval import RetrievalWriter
from lightcrl.heads.captioning.writer import Search
from lightcrl.heads.prior.head import choose, first_pairs
from lightcrl.heads.spec import HeadSpec
from lightcrl.metrics.captions import Cider, bleu, bleu_counts, rouge_l
from lightcrl.metrics.generation import frechet_distance
from lightcrl.metrics.intervals import bootstrap_interval, hits
from lightcrl.metrics.ranks import ranks
from lightcrl.specs import parse
from lightcrl.tasks.base import Setting
from lightcrl.tasks.prior import PriorSpec, PriorTask
from lightcrl.training import heads
from lightcrl.training.heads import head_features, train_head

TRAINING = {"epochs": 10, "batch_size": 512, "evaluate_every": 5, "tensorboard": False}
MODELS = {
    "ridge-embedding": {"model": "ridge", "words": False},
    "flow": {"model": "flow"},
    "mlp": {"model": "mlp"},
    "ridge": {"model": "ridge"},
}


def read_features(embedder: Any, stores: list[str]) -> Features:
    recipe = embedder.checkpoint.recipe
    data = DataSpec.model_validate(recipe["data"])
    encoders = {name: embedder.encoder(name) for name in embedder.modalities}
    if not stores:
        storage = FeaturesSpec.model_validate(recipe["features"])
        features = head_features(embedder.checkpoint, encoders, data, storage, print)
    else:
        opened = {name: FeatureStore(folder) for name, folder in (pair.split("=") for pair in stores)}
        items = load_dataset(data, embedder.modalities).items
        features = Features(opened, items)
    return features.in_memory(4 * 2**30)


def embed_once(base: Checkpoint, features: Features, folder: Path) -> dict[str, torch.Tensor]:
    """Embeddings of all rows, made once; the trainings of heads find them too."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for name, store in features.stores.items():
        place = folder / f"{name}-{base.digest[:8]}.npy"
        if not place.exists():
            np.save(place, embed_rows(base.method, store, name, np.arange(store.rows)).numpy())
        vectors[name] = torch.from_numpy(np.load(place))
    heads.gather_material = lambda checkpoint, given: Material(given, vectors)
    return vectors


def measure(base: Checkpoint, name: str, features: Features) -> dict[str, Any]:
    setting = Setting({m: _Kind(spec.kind) for m, spec in base.encoders.items()}, None, features=features)
    task = PriorTask.prepare(PriorSpec(head=name), setting)
    return task.result(task.measure(base)).to_json()


class _Kind:
    def __init__(self, kind: str) -> None:
        self.kind = kind


@torch.inference_mode()
def from_text(
    base: Checkpoint, name: str, features: Features, vectors: Mapping[str, torch.Tensor], groups: int
) -> dict[str, Any]:
    """Retrieval and captions of the first text of each group of dev: by itself, through the prior, both, and the truth.

    Captions are the consensus of the nearest training captions; references are the group's other texts.
    """
    head = base.head(name)
    split, train = features.split("dev"), features.split("train")
    material = Material(features, vectors)
    pairs = first_pairs(split, head.source, head.target)
    given, truths = (vectors[m][torch.from_numpy(r)] for m, r in zip((head.source, head.target), pairs.T, strict=True))
    made = choose(head.generate_rows(features.store(head.source), pairs[:, 0], given), given)
    texts = [item.read() for item in material.items(head.source)]
    _, references = captioned(split, head.target, head.source, texts)
    others = [group[1:] for group in references]
    writer = RetrievalWriter(base.method.modalities[head.target], base.method.dim, CaptioningOptions())
    rows = np.unique(train.members[head.source].rows)
    writer.learn([texts[row] for row in rows], lambda: vectors[head.source][torch.from_numpy(rows)])
    cider = Cider(references)
    own = np.stack([np.arange(len(pairs))] * 2, 1)
    kinds = {"text": given, "prior": made, "both": normalize(given + made, dim=1), "truth": truths}
    some = slice(0, groups)
    figures: dict[str, Any] = {}
    scores, first = {}, {}
    for kind, rows in kinds.items():
        captions = [best[0].text for best in writer.write(None, rows[some], Search(beams=1))]  # type: ignore[arg-type]
        scores[kind], first[kind] = cider(captions, others[some]), hits(ranks(rows, truths, own), 1)
        counts = bleu_counts(captions, others[some]).sum(0, keepdims=True)
        told = {"cider": scores[kind].mean(), "rouge_l": rouge_l(captions, others[some]).mean()}
        told |= {"recall@1": first[kind].mean(), **{key: value[0] for key, value in bleu(counts).items()}}
        figures[kind] = {key: float(value) for key, value in told.items()}
        for what, values in (("cider", scores), ("recall@1", first)):
            gap = values[kind] - values["text"]
            ends = bootstrap_interval(lambda weights, gap=gap: weights @ gap / weights.sum(1), len(gap))
            figures[kind][f"{what} - text"] = [float(gap.mean()), *ends]
    trained = vectors[head.target][torch.from_numpy(np.unique(train.members[head.target].rows))]
    return figures | {"frechet of train and dev": frechet_distance(trained.numpy(), truths.numpy())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--stores", nargs="*", default=[])
    parser.add_argument("--groups", type=int, default=400, help="groups of dev that are captioned")
    parser.add_argument("--set", type=json.loads, default={}, help="further options of the heads, as JSON")
    parser.add_argument("--tag", default="", help="suffix of the folders, for other options")
    args = parser.parse_args()
    embedder = lightcrl.load(args.model, device="cpu")
    features = read_features(embedder, args.stores)
    base = embedder.checkpoint
    vectors = embed_once(base, features, args.output)
    for seed in args.seeds:
        for model in args.models:
            name, folder = f"{model}{args.tag}-{seed}", args.output / f"{model}{args.tag}-{seed}"
            if (folder / "figures.json").exists():
                continue
            begun, table = time.process_time(), {"kind": "prior", **MODELS[model], "seed": seed}
            base.heads[name] = train_head(
                base, name, parse(HeadSpec, table | {"training": TRAINING} | args.set, "heads"), features, folder
            )
            seconds = time.process_time() - begun
            done = {"training": base.heads[name].figures, "cpu_seconds": seconds, **measure(base, name, features)}
            done["from_text"] = from_text(base, name, features, vectors, args.groups)
            (folder / "figures.json").write_text(json.dumps(done, indent=1))
            print(name, round(seconds), {k: round(v, 4) for k, v in done["metrics"].items()}, flush=True)
            print(json.dumps(done["from_text"]), flush=True)


if __name__ == "__main__":
    main()
