"""Wrong captions in Flickr8k, put there on purpose: how many `lightcrl clean` finds, and what cleaning gives back.

    python benchmarks/clean_flickr.py --noise 0.2 --seeds 0 1 2        one part; killed parts resume
    python benchmarks/clean_flickr.py                                  the table of all parts that are done

Some of the training captions are exchanged between photographs (`--kind exchange`), or have one word replaced by
another of its kind (`--kind word`: "a red car" becomes "a blue car"). Nothing is encoded twice: exchanged captions keep
their features. Folds, evidence and verdicts are those of `lightcrl clean`; then a method is trained on the noisy, the
cleaned, the re-captioned and the original captions, and on what a faultless cleaner keeps, and measured on dev; killed,
it continues with the next of them.
New captions come from retrieval in the cleaned space: training captions, whose features are there. The method was tried
out on another exchange (seed 100) of 2,000 photographs.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.checkpoint import load_folder
from lightcrl.data import load_dataset
from lightcrl.features import Features
from lightcrl.features.base import Store, WrappedStore
from lightcrl.features.embed import embed_rows, own_rows
from lightcrl.features.table import Split, make_members
from lightcrl.files.local import make_folder, write_json
from lightcrl.heads.base import Material
from lightcrl.heads.captioning.head import Captioning
from lightcrl.heads.spec import make_head
from lightcrl.methods.spec import MethodSpec
from lightcrl.pipeline import prepare, train_method
from lightcrl.recipe import Recipe, load_recipe
from lightcrl.sheets import markdown_table
from lightcrl.specs import parse
from lightcrl.studies.clean.homes import find_homes
from lightcrl.studies.clean.pairs import draw_folds, lay_out
from lightcrl.studies.clean.run import MOVE, THRESHOLD, judge_pairs
from lightcrl.studies.clean.spaces import Ground
from lightcrl.tokens import TokenBatch

PROJECT = Path(__file__).parents[1]
KINDS = (
    ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "pink", "purple"),
    ("man", "woman", "boy", "girl", "child", "lady"),
    ("men", "women", "boys", "girls", "children", "people"),
    ("dog", "cat", "horse", "bird", "cow"),
    ("two", "three", "four", "five"),
    ("running", "sitting", "standing", "walking", "jumping", "swimming", "climbing", "sleeping", "playing", "riding"),
    ("beach", "street", "field", "mountain", "pool", "forest", "park", "road", "snow", "grass", "water", "sand"),
    ("ball", "frisbee", "stick", "toy", "bike", "bicycle", "skateboard", "guitar", "camera", "boat", "car"),
    ("shirt", "jacket", "dress", "hat", "coat", "pants", "helmet", "sunglasses"),
)
OTHERS = {word: tuple(other for other in kind if other != word) for kind in KINDS for word in kind}


def exchange(split: Split, modality: str, share: float, seed: int) -> tuple[Split, np.ndarray]:
    """Exchange a share of a modality's items between groups; return the split and a mask of the wrong links."""
    members, generator = split.members[modality], np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(members.rows))[: round(share * len(members.rows))])
    source = generator.permutation(chosen)
    while len(same := np.flatnonzero(members.groups[source] == members.groups[chosen])):
        other = generator.integers(0, len(chosen), len(same))
        for left, right in zip(same, other, strict=True):
            source[left], source[right] = source[right], source[left]
    rows, wrong = members.rows.copy(), np.zeros(len(members.rows), bool)
    rows[chosen], wrong[chosen] = members.rows[source], True
    order = np.lexsort((rows, members.groups))
    thinned = make_members(rows[order], members.groups[order], len(split))
    return replace(split, members={**split.members, modality: thinned}), wrong[order]


def replace_words(path: Path, target: Path, share: float, seed: int) -> set[tuple[str, str]]:
    """Write a table in which a share of the captions has one word of another meaning; return photograph and caption."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    generator, changed = random.Random(seed), set()
    able = [n for n, row in enumerate(rows) if any(word in OTHERS for word in row["caption"].lower().split())]
    for number in generator.sample(able, min(len(able), round(share * len(rows)))):
        words = rows[number]["caption"].split()
        place = generator.choice([n for n, word in enumerate(words) if word.lower() in OTHERS])
        words[place] = generator.choice(OTHERS[words[place].lower()])
        rows[number]["caption"] = " ".join(words)
        changed.add((rows[number]["image"], rows[number]["caption"]))
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return changed


def average_precision(wrong: np.ndarray, score: np.ndarray) -> float:
    """Return the mean, over wrong pairs, of the precision among all pairs of at least their score."""
    hits = wrong[np.argsort(-score, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def changed_links(
    features: Features, names: list[str], texts: dict[int, str], changed: set[tuple[str, str]]
) -> np.ndarray:
    """Return a mask of the links of train's texts that have a changed word."""
    members = features.split("train").members["text"]
    links = zip(members.rows.tolist(), members.groups.tolist(), strict=True)
    return np.array([(names[group], texts[row]) in changed for row, group in links])


def measure(given: argparse.Namespace, noise: float, seed: int) -> dict[str, Any]:
    """Judge one noisy data set, and train on it, on what is kept of it, and on the original."""
    start = time.process_time()
    folder = make_folder(
        given.output
        / f"{given.kind}-{noise}-seed{seed}"
        / f"{given.groups or 'all'}{f'-slots{given.slots}' if given.slots else ''}"
    )
    overrides = [f"features.folder={given.features}", "training.tensorboard=false"]
    recipe = load_recipe(given.recipe, overrides)
    clean_features, _, _ = prepare(recipe)
    changed: set[tuple[str, str]] = set()
    if given.kind == "word":
        root = Path(recipe.data.train or "").parent
        table = folder / "train.jsonl"
        changed = replace_words(Path(recipe.data.train or ""), table, noise, seed)
        recipe = load_recipe(given.recipe, [*overrides, f"data.train={table}", f"data.root={root}"])
    features, encoders, _ = prepare(recipe)
    original = clean_features if given.slots else clean_features.in_memory(2**34)
    features = features.in_memory(2**34) if changed else original
    store = features.store("text")
    own = _kept(given.output / f"own-{store.fingerprint}.npy", lambda: own_rows(encoders["text"], store, _rows(store)))
    if given.slots:
        original, features = (_first_slots(each, given) for each in (original, features))
    if given.groups:
        chosen = np.arange(given.groups)
        original, features = (
            each.replace_split("train", each.split("train").subset(chosen)) for each in (original, features)
        )
    texts = texts_by_row(recipe, features)
    if given.kind == "word":
        wrong = changed_links(features, features.names("train"), texts, changed)
    else:
        noisy, wrong = exchange(features.split("train"), "text", noise, seed)
        features = features.replace_split("train", noisy)
    layout = lay_out(features, "image")
    ground = Ground(
        recipe,
        parse(MethodSpec, {"name": given.method}, "method"),
        seed,
        folder,
        features,
        encoders,
        layout,
        draw_folds(layout, given.folds, np.zeros((0, 2), int), seed),
        {"text": own},
        lambda event: None,
    )
    links = layout.links["text"]
    train = layout.splits[links.groups] == 0
    result: dict[str, Any] = {
        "kind": given.kind,
        "noise": noise,
        "seed": seed,
        "true": float(wrong.mean()),
        "rounds": [],
    }
    rounds = judge_pairs(ground, given.rounds)
    for each in rounds:
        verdict = each.verdicts["text"]
        score = np.full(len(links.rows), -np.inf)
        score[verdict.links] = -verdict.log_ratio
        suspected = verdict.over_links(len(links.rows))[train] > THRESHOLD
        rate = verdict.rates["train"]
        result["rounds"].append(
            {
                "average_precision": average_precision(wrong, score[train]),
                "share": rate.share,
                "interval": rate.interval,
                "dev_share": verdict.rates["dev"].share,
                "dropped": float(suspected.mean()),
                "precision": float(wrong[suspected].mean()),
                "recall": float(suspected[wrong].mean()),
            }
        )
    result["judge_seconds"] = round(time.process_time() - start, 1)
    homes = find_homes(ground, rounds[-1].spaces, verdict, "text", 0, THRESHOLD)
    # The links of train come first, so their numbers are those of the split.
    moved = {link: home.group for link, home in homes.items() if home.probability > MOVE}
    original_groups = _groups_of(original)
    rows = features.split("train").members["text"].rows
    result["moved"] = len(moved) / max(1, int(suspected.sum()))
    result["moved_right"] = float(
        np.mean([group in original_groups[rows[link]] for link, group in moved.items()] or [0])
    )
    path, cleaned = folder / "result.json", _without(features, suspected)
    done = json.loads(path.read_text())["recall@1"] if path.exists() else {}
    tables: dict[str, Callable[[], Features]] = {
        "noisy": lambda: features,
        "cleaned": lambda: cleaned,
        "moved": lambda: _moved(features, suspected, moved),
        "recaptioned": lambda: _recaptioned(cleaned, suspected, features, folder / f"{given.train}-cleaned", texts),
        "clean": lambda: original,
        "faultless": lambda: _without(features, wrong),
    }
    for name, make in tables.items():
        result["recall@1"] = done
        if given.train and name not in done:
            done[name] = train_on(given, recipe, make(), encoders, folder / f"{given.train}-{name}", seed)
        result["seconds"] = round(time.process_time() - start, 1)
        write_json(path, result)
    return result


class FirstSlots(WrappedStore):
    """A store with the first slots alone, in memory: `values` [R, slots, D]."""

    def __init__(self, store: Store, values: Tensor) -> None:
        super().__init__(store)
        self.values, self.slots, self.sequence = values, values.shape[1], False
        self.longest, self.tokens, self.nbytes = self.slots, self.rows * self.slots, values.nbytes

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return the slots of the items at `rows` [B]."""
        return TokenBatch.full(self.values[torch.from_numpy(np.asarray(rows))])


def _first_slots(features: Features, given: argparse.Namespace) -> Features:
    """Return the features with the first slots of every item alone: those of the encoder's last layer."""
    stores: dict[str, Store] = {}
    for name, store in features.stores.items():

        def read(store: Store = store) -> Tensor:
            parts = np.array_split(_rows(store), max(1, store.rows // 2048))
            return torch.cat([store.gather(part, sequence=False).values[:, : given.slots] for part in parts])

        values = _kept(given.output / f"slots{given.slots}-{store.fingerprint}.npy", read)
        stores[name] = FirstSlots(store, values)
    return features.replace_stores(stores)


def _kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Return the tensor in a file, which is made if it is not there."""
    if not path.exists():
        np.save(make_folder(path.parent) / path.name, make().numpy())
    return torch.from_numpy(np.load(path))


def _rows(store: Store) -> np.ndarray:
    return np.arange(store.rows)


def texts_by_row(recipe: Recipe, features: Features) -> dict[int, str]:
    """Return the caption of every row of the text store."""
    by_key = {item.key: str(item.raw) for item in load_dataset(recipe.data, recipe.kinds).items["text"]}
    lines = features.store("text").metadata().to_pydict()
    return {row: by_key[key] for row, key in zip(lines["row"], lines["item"], strict=True) if key in by_key}


def _recaptioned(
    cleaned: Features, suspected: np.ndarray, noisy: Features, space: Path, texts: dict[int, str]
) -> Features:
    """Return the cleaned features with a training caption, by retrieval in their space, for each dropped one."""
    checkpoint = load_folder(space / "best")
    head = make_head("captioning", checkpoint.space, {"source": "image", "decoder": "retrieval"})
    assert isinstance(head, Captioning)
    split, images = cleaned.split("train"), cleaned.split("train").members["image"]
    kept, dropped = split.members["text"], noisy.split("train").members["text"].groups[suspected]
    rows = np.unique(kept.rows)
    head.writer.learn(
        [texts[row] for row in rows], lambda: embed_rows(checkpoint.method, cleaned.store("text"), "text", rows)
    )
    row_of = {texts[row]: row for row in rows.tolist()}
    groups = np.unique(dropped)
    pictures = cleaned.store("image")
    material = Material(cleaned, {"image": embed_rows(checkpoint.method, pictures, "image", _rows(pictures))})
    written = head.write_rows(material, images.rows[images.starts[groups]], head.search(beams=10))
    said: dict[int, set[int]] = {group: set() for group in groups.tolist()}
    for row, group in zip(kept.rows.tolist(), kept.groups.tolist(), strict=True):
        said.setdefault(group, set()).add(row)
    captions = {
        group: [row for each in some if (row := row_of[each.text]) not in said[group]]
        for group, some in zip(groups.tolist(), written, strict=True)
    }
    new = [(captions[group].pop(0), group) for group in dropped.tolist() if captions[group]]
    return _with_texts(cleaned, np.concatenate([np.stack([kept.rows, kept.groups], 1), np.array(new)]))


def _without(features: Features, suspected: np.ndarray) -> Features:
    members = features.split("train").members["text"]
    return _with_texts(features, np.stack([members.rows, members.groups], 1)[~suspected])


def _with_texts(features: Features, links: np.ndarray) -> Features:
    """Return the features with other texts in train: row and group of each, [L, 2]."""
    split = features.split("train")
    rows, groups = links[np.lexsort((links[:, 0], links[:, 1]))].T
    text = make_members(rows, groups, len(split))
    return features.replace_split("train", replace(split, members={**split.members, "text": text}))


def _groups_of(features: Features) -> dict[int, set[int]]:
    """Return the groups of every row of train's texts."""
    members = features.split("train").members["text"]
    groups: dict[int, set[int]] = {}
    for row, group in zip(members.rows.tolist(), members.groups.tolist(), strict=True):
        groups.setdefault(row, set()).add(group)
    return groups


def _moved(features: Features, suspected: np.ndarray, moved: Mapping[int, int]) -> Features:
    """Return the features without the suspected texts, but for those that are moved into another group."""
    members = features.split("train").members["text"]
    groups, kept = members.groups.copy(), ~suspected
    for link, group in moved.items():
        groups[link], kept[link] = group, True
    return _with_texts(features, np.unique(np.stack([members.rows[kept], groups[kept]], 1), axis=0))


def train_on(
    given: argparse.Namespace, recipe: Recipe, features: Features, encoders: Any, folder: Path, seed: int
) -> float:
    """Return mean R@1 on dev after training on these features."""
    spec = parse(MethodSpec, {"name": given.train}, "method")
    _, trained, _ = train_method(recipe, spec, seed, folder, features, encoders)
    return trained.result.metrics["mean_recall@1"]


def show(folder: Path) -> None:
    """Print a row for each finished part."""
    headings = (
        *("noise", "photographs", "seed", "AP, rounds", "estimated (95 %)", "true", "dropped", "precision, recall"),
        *("moved", "R@1", "CPU s"),
    )
    rows = []
    for path in sorted(folder.glob("*/*/result.json")):
        each = json.loads(path.read_text())
        last = each["rounds"][-1]
        low, high = last["interval"]
        rows.append(
            (
                f"{each['kind']} {each['noise']:g}",
                path.parent.name,
                str(each["seed"]),
                ", ".join(f"{one['average_precision']:.4f}" for one in each["rounds"]),
                f"{last['share']:.3f} ({low:.3f}-{high:.3f})",
                f"{each['true']:.3f}",
                f"{last['dropped']:.3f}",
                f"{last['precision']:.3f}, {last['recall']:.3f}",
                f"{each.get('moved', 0):.3f}, {each.get('moved_right', 0):.3f} right",
                ", ".join(f"{name} {value:.4f}" for name, value in each["recall@1"].items()),
                f"{each['judge_seconds']:.0f}",
            )
        )
    print("\n".join(markdown_table(headings, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=PROJECT / "recipes" / "flickr8k.toml", type=Path)
    parser.add_argument("--noise", nargs="*", type=float, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--kind", choices=("exchange", "word"), default="exchange")
    parser.add_argument("--groups", type=int, default=0, help="photographs to train on; all by default")
    parser.add_argument(
        "--slots", type=int, default=0, help="first slots to read, such as 2, which takes a tenth of the time; 0: all"
    )
    parser.add_argument("--method", default="csa", help="method of the spaces that judge")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--train", default="csa", help="method to train on all four tables; '' for none")
    parser.add_argument("--features", default="runs/clean_flickr/features", type=Path)
    parser.add_argument("--output", default="runs/clean_flickr", type=Path)
    given = parser.parse_args()
    given.output, given.features = given.output.absolute(), given.features.absolute()
    for seed in given.seeds:
        for noise in given.noise:
            print(json.dumps(measure(given, noise, seed)), flush=True)
    show(given.output)


if __name__ == "__main__":
    main()
