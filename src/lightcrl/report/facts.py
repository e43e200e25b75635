"""The report of a run, or of several: everything worth seeing on one self-contained page.

`gather` reads a run's folder and looks again at what its model does; `render` turns one or several of these into HTML,
with figures as SVG, pictures and sounds inside. The page loads nothing from anywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.checkpoint import load_checkpoint
from lightcrl.data import Dataset, load_dataset
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError
from lightcrl.events import Tell
from lightcrl.features import Features, FeatureStore
from lightcrl.features.embed import embed_split
from lightcrl.features.extract import encode_modality
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.zero_shot import predict
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.report.gallery import Collection, Query, gallery
from lightcrl.report.space import Space, look
from lightcrl.tasks.base import Setting
from lightcrl.tasks.text_similarity import watched
from lightcrl.tasks.zero_shot import ZeroShotSpec, ZeroShotTask
from lightcrl.training.log import read_log

MOST = 8
"""Classes that a figure tells apart by colour."""


@dataclass(frozen=True)
class ModalityFacts:
    """What was aligned.

    Attributes:
        name: of the modality.
        kind: `"text"`, `"image"` or `"audio"`.
        encoder: its encoder.
        trained: the encoder was trained too.
        tokens: their number and width.
        items: encoded ones, in all splits.
        nbytes: of their features.
    """

    name: str
    kind: str
    encoder: str
    trained: bool
    tokens: str
    items: int
    nbytes: int


@dataclass(frozen=True)
class ModelFacts:
    """One trained model.

    Attributes:
        method: its name.
        seed: its seed.
        parts: trained parameters by part.
        seconds: of training.
        retrieval: figures on the run's split.
        zero_shot: figures, where the recipe asks for them.
        text_similarity: likewise.
        loss: [S, 2] step and training loss.
        recall: [E, 2] step and mean R@1 on dev.
        precision: by aligned space, [E, 3] epochs done and precision of similar and of dissimilar pairs, where watched.
        best_epoch: epochs done when dev chose the checkpoint.
    """

    method: str
    seed: int
    parts: Mapping[str, int]
    seconds: float
    retrieval: Result
    zero_shot: Result | None
    text_similarity: Result | None
    loss: np.ndarray
    recall: np.ndarray
    precision: Mapping[str, np.ndarray]
    best_epoch: int


@dataclass(frozen=True)
class Confusion:
    """What the run's model took the zero-shot items for.

    Attributes:
        modality: of the items.
        classes: their names.
        prompts: the templates, as far as the recipe names them.
        counts: int64 [C, C]: right class, class it was taken for.
    """

    modality: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Report:
    """All that a page shows of a run.

    Attributes:
        name: of the run.
        folder: its last part.
        title: of the page.
        version: of LightCRL.
        split: that retrieval, gallery and space are of.
        groups: by split.
        modalities: what was aligned.
        models: the run's own first.
        settings: how it was trained, name to value.
        confusion: zero-shot classification, where the recipe asks for it.
        classes: a look at its items and the prompts of their classes.
        space: a look at the embeddings.
        gallery: queries with what they find.
        notes: remarks on the data.
    """

    name: str
    folder: str
    title: str
    version: str
    split: str
    groups: Mapping[str, int]
    modalities: tuple[ModalityFacts, ...]
    models: tuple[ModelFacts, ...]
    settings: Mapping[str, Any]
    confusion: Confusion | None
    classes: Space | None
    space: Space
    gallery: tuple[Query, ...]
    notes: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[ModelFacts, ...]:
        """One model of each method, that of the first seed; the run's own first."""
        return tuple(model for model in self.models if model.seed == self.models[0].seed)

    @property
    def directions(self) -> tuple[tuple[str, str, str], ...]:
        """Source, target, and the name that its figures begin with."""
        named = ((a, b, f"{a}_to_{b}") for a, b in permutations((one.name for one in self.modalities), 2))
        return tuple(found for found in named if f"{found[2]}/recall@1" in self.models[0].retrieval.metrics)


def gather(
    folder: Path | str,
    *,
    title: str = "",
    labels: Mapping[str, Mapping[str, str]] | None = None,
    notes: Iterable[str] = (),
    tell: Tell = lambda event: None,
) -> Report:
    """Read a finished run and look at what its model does. Features that are gone are made again.

    Args:
        folder: of the run.
        title: of the page, if not the run's name.
        labels: what is known of groups, by what it tells: group name to label. The space is coloured by one.
        notes: remarks on the data.
        tell: called with what happens.

    Raises:
        CheckpointError: there is no finished run in `folder`.
        DataError: its data is gone.
    """
    folder = Path(folder)
    recipe, figures = _read(folder)
    dataset = load_dataset(recipe.data, recipe.kinds)
    checkpoint = load_checkpoint(folder)
    encoders = checkpoint.as_trained({modality: load_encoder(spec) for modality, spec in recipe.encoders.items()})
    limit = recipe.data.max_rejected
    stores = {
        modality: encode_modality(encoder, dataset, modality, recipe.features, tell, max_rejected=limit).store
        for modality, encoder in encoders.items()
    }
    features = Features(stores)
    method = checkpoint.method
    zero_shot = recipe.evaluation.zero_shot
    assert zero_shot is None or isinstance(zero_shot, ZeroShotSpec)
    classified = None
    if zero_shot is not None:
        classified = ZeroShotTask.prepare(zero_shot, Setting(encoders, recipe.features, tell))
    collection, names = _collect(method, features, dataset, recipe)
    known = {
        what: {number: of_group[name] for number, name in enumerate(names) if name in of_group}
        for what, of_group in (labels or {}).items()
    }
    return Report(
        name=recipe.name,
        folder=folder.absolute().name,
        title=title or recipe.name,
        version=__version__,
        split=recipe.evaluation.split,
        groups=dict(Counter(dataset.splits)),
        modalities=tuple(
            ModalityFacts(
                modality,
                spec.kind,
                _encoder_name(spec),
                modality in checkpoint.towers,
                _token_shape(store),
                store.rows,
                store.nbytes,
            )
            for (modality, spec), store in zip(recipe.encoders.items(), stores.values(), strict=True)
        ),
        models=tuple(_model(folder, number, entry) for number, entry in enumerate(figures["models"])),
        settings=_settings(recipe, folder),
        confusion=_confusion(classified, method, zero_shot.templates or ()) if classified and zero_shot else None,
        classes=_classes(classified, method) if classified else None,
        space=look(collection.vectors, collection.links, known),
        gallery=gallery(collection),
        notes=tuple(notes),
    )


def _read(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        figures: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no finished run in {folder} ({error}). Expected recipe.json and metrics.json; run the recipe first."
        ) from None
    return make_recipe(recipe), figures


def _collect(method: Method, features: Features, dataset: Dataset, recipe: Recipe) -> tuple[Collection, Sequence[str]]:
    """The split's items with their embeddings, and the names of its groups."""
    split = features.split(recipe.evaluation.split)
    vectors, links = embed_split(method, features, split)
    items = {}
    for modality, members in split.members.items():
        table = features.store(modality).metadata()
        key_of = dict(zip(table["row"].to_pylist(), table["item"].to_pylist(), strict=True))
        by_key = {item.key: item for item in dataset.items[modality]}
        items[modality] = [by_key[key_of[row]] for row in np.unique(members.rows).tolist()]
    return Collection(recipe.kinds, items, vectors, links), features.names(recipe.evaluation.split)


def _model(folder: Path, number: int, entry: Mapping[str, Any]) -> ModelFacts:
    # Runs may have been moved, so only the last part of the folder counts.
    place = folder / "others" / Path(entry["folder"]).name if number else folder
    log = read_log(place)
    steps = [(event["step"], event["loss"]) for event in log if event["event"] == "step"]
    evaluations = [event for event in log if event["event"] == "evaluation"]
    recall = [(event["step"], event["dev_mean_recall@1"]) for event in evaluations]
    pairs = entry.get("text_similarity")  # runs of earlier versions have none
    return ModelFacts(
        entry["method"],
        entry["seed"],
        load_checkpoint(place).parts(),
        entry["seconds"],
        Result.from_json(entry["retrieval"]),
        Result.from_json(entry["zero_shot"]) if entry["zero_shot"] else None,
        Result.from_json(pairs) if pairs else None,
        np.array(steps, dtype=np.float64).reshape(-1, 2),
        np.array(recall, dtype=np.float64).reshape(-1, 2),
        watched(evaluations),
        max(evaluations, key=lambda event: event["dev_mean_recall@1"])["epoch"],
    )


def _confusion(prepared: ZeroShotTask, method: Method, templates: tuple[str, ...]) -> Confusion:
    taken_for = predict(prepared.items.vectors(method), prepared.class_vectors(method)).numpy()
    counts = np.zeros((len(prepared.classes), len(prepared.classes)), dtype=np.int64)
    np.add.at(counts, (prepared.items.labels, taken_for), 1)
    return Confusion(prepared.items.modality, prepared.classes, templates, counts)


def _classes(prepared: ZeroShotTask, method: Method) -> Space:
    """The items of at most `MOST` classes, the largest, beside the classes' own vectors."""
    labels = prepared.items.labels
    shown = np.sort(np.argsort(-np.bincount(labels), kind="stable")[:MOST])
    here = np.flatnonzero(np.isin(labels, shown))
    vectors = {
        prepared.items.modality: prepared.items.vectors(method)[here],
        prepared.text: prepared.class_vectors(method)[shown],
    }
    groups = {prepared.items.modality: labels[here], prepared.text: shown}
    links = {name: np.stack([np.arange(len(found)), found], 1) for name, found in groups.items()}
    return look(vectors, links, {"class": dict(enumerate(prepared.classes))})


def _settings(recipe: Recipe, folder: Path) -> dict[str, Any]:
    start = next(event for event in read_log(folder) if event["event"] == "start")
    training = recipe.training.model_dump(mode="json", include={"loss", "schedule", "weight_decay"})
    planned = {name: start[name] for name in ("batch_size", "items_per_group", "epochs", "steps")}
    return {**recipe.method.options, **planned, **training}


def _encoder_name(spec: EncoderSpec) -> str:
    return Path(spec.model).name if Path(spec.model).is_absolute() else spec.model


def _token_shape(store: FeatureStore) -> str:
    most = f"up to {store.longest}"
    count = f"{store.slots} + {most}" if store.sequence else str(store.slots) if store.slots > 1 else most
    return f"{count} × {store.dim}"
