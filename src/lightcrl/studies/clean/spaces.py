"""Spaces of the folds: each is trained without a fold and then measures that fold's pairs.

    spaces/<method>-round<N>-fold<N>-<digest>/    the digest covers all that determines the training and the evidence
      best/ last/ log.jsonl     as in every training
      evidence.npz              features of the fold's pairs and of its null, by modality; written last

A folder with evidence is read; one without it resumes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightcrl.data.base import digest
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import embed_rows
from lightcrl.files.local import whole_file
from lightcrl.files.locks import in_turn
from lightcrl.methods import METHODS, Method
from lightcrl.methods.spec import MethodSpec
from lightcrl.pipeline import train_method
from lightcrl.recipe import Recipe
from lightcrl.studies.clean.evidence import EVIDENCE, Holdout, draw_null, evidence_on
from lightcrl.studies.clean.pairs import Layout, training_features

FORMAT = 1
EVIDENCE_FILE = "evidence.npz"


@dataclass(frozen=True)
class Ground:
    """The common setting of all folds of a cleaning.

    Attributes:
        recipe: training settings.
        spec: the method.
        seed: seed of folds, trainings and nulls.
        folder: folder of the cleaning.
        features: features in memory, with all groups and pairs.
        encoders: encoders of the features.
        layout: groups and items.
        folds: fold of every group, [G].
        own: the frozen encoder's vectors [rows, D] by judged modality.
        tell: callback for events.
    """

    recipe: Recipe
    spec: MethodSpec
    seed: int
    folder: Path
    features: Features
    encoders: Mapping[str, Encoder]
    layout: Layout
    folds: np.ndarray
    own: Mapping[str, Tensor]
    tell: Tell


@dataclass(frozen=True)
class Measured:
    """Evidence on the pairs of a modality, and on a null of certainly wrong ones.

    Attributes:
        names: names of the features, [F].
        links: number of the link of every pair, [P].
        pairs: features [P, F].
        null: features [M, F].
        null_links: number of the link in whose place each member of the null stands, [M].
        folds: fold of every pair, [P].
        null_folds: fold of every member of the null, [M].
    """

    names: tuple[str, ...]
    links: np.ndarray
    pairs: np.ndarray
    null: np.ndarray
    null_links: np.ndarray
    folds: np.ndarray
    null_folds: np.ndarray


def measure_pairs(
    ground: Ground, number: int, trust: Mapping[str, np.ndarray], dropped: Mapping[str, np.ndarray]
) -> tuple[dict[str, Measured], dict[int, Path]]:
    """Return the evidence of a round on all pairs, by modality, and the folder of the space of each fold.

    Args:
        ground: common setting.
        number: number of the round, from 1.
        trust: probability [L] that a link is right, by modality.
        dropped: mask [L] of the links that no space is trained on, by modality.
    """
    parts: dict[str, list[Measured]] = {name: [] for name in ground.layout.judged}
    spaces: dict[int, Path] = {}
    for fold in np.unique(ground.folds).tolist():
        identity = fingerprint(_identity(ground, fold, trust, dropped))
        name = re.sub(r"[^\w.-]", ".", ground.spec.name)
        spaces[fold] = ground.folder / "spaces" / f"{name}-round{number}-fold{fold}-{identity[:10]}"
        for modality, part in _measure_fold(ground, number, fold, trust, dropped, spaces[fold]).items():
            parts[modality].append(part)
    return {name: _joined(members) for name, members in parts.items() if members}, spaces


def _joined(parts: Sequence[Measured]) -> Measured:
    columns = ("links", "pairs", "null", "null_links", "folds", "null_folds")
    return Measured(parts[0].names, *(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _measure_fold(
    ground: Ground,
    number: int,
    fold: int,
    trust: Mapping[str, np.ndarray],
    dropped: Mapping[str, np.ndarray],
    folder: Path,
) -> dict[str, Measured]:
    """Return the evidence on the pairs of a fold, by modality; the space is trained if `folder` has none."""
    if (measured := _read(folder, fold)) is not None:
        return measured
    with in_turn(folder, ground.tell) as hold:
        label = f"{ground.spec.name} (round {number}, fold {fold + 1} of {int(ground.folds.max()) + 1})"
        tell = hold.guard(ground.tell)

        def report(event: Mapping[str, Any]) -> None:
            tell({"method": label, "seed": ground.seed, **event})

        kept = ground.folds != fold
        features = training_features(ground.features, ground.layout, kept, dropped)
        # A pair is judged by its similarity itself, not by its rank.
        recipe = ground.recipe.model_copy(
            update={"training": ground.recipe.training.model_copy(update={"hubs": False})}
        )
        checkpoint, trained, _ = train_method(
            recipe, ground.spec, ground.seed, folder, features, ground.encoders, report
        )
        seconds = trained.progress.seconds
        tell({"event": "trained", "method": label, "seed": ground.seed, "seconds": seconds, "folder": str(folder)})
        measured = {
            modality: _measure(ground, checkpoint.method, modality, fold, trust[modality])
            for modality in ground.layout.judged
        }
        _write(folder, {name: part for name, part in measured.items() if len(part.links)})
    return {name: part for name, part in measured.items() if len(part.links)}


def _identity(
    ground: Ground, fold: int, trust: Mapping[str, np.ndarray], dropped: Mapping[str, np.ndarray]
) -> list[Any]:
    layout = ground.layout
    settings = ground.recipe.training.suited(METHODS.load(ground.spec.name)).identity()
    stores = [f"{modality} {store.fingerprint}" for modality, store in sorted(ground.features.stores.items())]
    arrays = [ground.folds, layout.splits]
    for name, links in sorted(layout.links.items()):
        arrays += [links.rows, links.groups]
        arrays += [np.round(table[name].astype(np.float64), 6) for table in (trust, dropped) if name in table]
    content = digest(*(np.ascontiguousarray(array).tobytes() for array in arrays))
    spec = ground.spec
    return [FORMAT, spec.name, spec.options, settings, ground.seed, fold, layout.anchor, stores, content, *EVIDENCE]


def hold_out(
    ground: Ground, method: Method, modality: str, held: np.ndarray, trust: np.ndarray
) -> tuple[Holdout, np.ndarray]:
    """Return the groups of `held` [G] embedded by a method, and the links [P] of its pairs."""
    layout, features = ground.layout, ground.features
    number = np.cumsum(held) - 1
    links, anchors = layout.links[modality], layout.links[layout.anchor]
    chosen = np.flatnonzero(held[links.groups] & layout.paired(modality))
    rows, items = np.unique(links.rows[chosen], return_inverse=True)
    anchored = anchors.of(held[anchors.groups])
    anchor_rows, anchor_items = np.unique(anchored.rows, return_inverse=True)
    holdout = Holdout(
        embed_rows(method, features.store(modality), modality, rows),
        ground.own[modality][rows],
        embed_rows(method, features.store(layout.anchor), layout.anchor, anchor_rows),
        np.stack([items, number[links.groups[chosen]]], 1),
        np.stack([anchor_items, number[anchored.groups]], 1),
        trust[chosen],
    )
    return holdout, chosen


def _measure(ground: Ground, method: Method, modality: str, fold: int, trust: np.ndarray) -> Measured:
    holdout, links = hold_out(ground, method, modality, ground.folds == fold, trust)
    null = draw_null(holdout, np.random.default_rng([ground.seed, fold]))
    own = evidence_on(holdout, np.arange(len(links)), holdout.pairs[:, 0], ground.seed)
    other = evidence_on(holdout, null[:, 0], null[:, 1], ground.seed)
    return Measured(
        tuple(own),
        links,
        np.stack(list(own.values()), 1),
        np.stack(list(other.values()), 1),
        links[null[:, 0]],
        np.full(len(links), fold),
        np.full(len(null), fold),
    )


def _write(folder: Path, measured: Mapping[str, Measured]) -> None:
    arrays: dict[str, Any] = {}
    for modality, part in measured.items():
        arrays |= {f"{modality}/{name}": getattr(part, name) for name in ("links", "pairs", "null", "null_links")}
        arrays[f"{modality}/names"] = np.array(part.names)
    with whole_file(folder / EVIDENCE_FILE) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def _read(folder: Path, fold: int) -> dict[str, Measured] | None:
    """Return the evidence of a finished fold; None if it is not finished."""
    try:
        with np.load(folder / EVIDENCE_FILE, allow_pickle=False) as arrays:
            tables: dict[str, dict[str, np.ndarray]] = {}
            for key in arrays:
                modality, _, name = key.rpartition("/")
                tables.setdefault(modality, {})[name] = arrays[key]
    except (OSError, ValueError):
        return None
    return {
        modality: Measured(
            tuple(map(str, table["names"])),
            table["links"],
            table["pairs"],
            table["null"],
            table["null_links"],
            np.full(len(table["links"]), fold),
            np.full(len(table["null"]), fold),
        )
        for modality, table in tables.items()
    }
