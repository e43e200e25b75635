"""The report of a run, or of several, as a self-contained page.

`gather` reads a run's folder and evaluates its model again; `render` turns one or several of these into HTML,
with figures as SVG, pictures and sounds inside. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.data import Dataset, load_dataset
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError
from lightcrl.events import Tell
from lightcrl.features import Features, Store
from lightcrl.features.base import item_keys
from lightcrl.features.embed import embed_split
from lightcrl.features.extract import encode_each
from lightcrl.heads.state import TrainedHead
from lightcrl.imaginer import DRAWING, Imaginer
from lightcrl.methods import Method
from lightcrl.metrics.result import Result
from lightcrl.metrics.zero_shot import predict
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.report.gallery import Collection, Query, gallery
from lightcrl.report.imagining_page import Imagined, gather_imagined
from lightcrl.report.space import Space, look
from lightcrl.tasks.base import Setting
from lightcrl.tasks.heads import head_names
from lightcrl.tasks.text_similarity import watched
from lightcrl.tasks.zero_shot import ZeroShotSpec, ZeroShotTask
from lightcrl.training.log import read_log
from lightcrl.training.spec import TrainingSpec

PROMPTS, SAMPLES = 4, 4
"""Numbers of texts that a decoder draws, and of pictures of each."""
MOST = 8
"""Greatest number of classes with colours of their own in a figure."""


@dataclass(frozen=True)
class ModalityFacts:
    """A modality of the run.

    Attributes:
        name: name of the modality.
        kind: `"text"`, `"image"` or `"audio"`.
        encoder: its encoder.
        trained: true if the encoder was trained too.
        tokens: number and width of its tokens.
        items: number of encoded items, in all splits.
        nbytes: size of their features in bytes.
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
    """A trained model.

    Attributes:
        method: name of the method.
        seed: seed of the training.
        parts: number of trained parameters by part.
        seconds: duration of training.
        retrieval: figures on the run's split.
        zero_shot: figures of zero-shot classification, if the recipe has it.
        text_similarity: figures of text similarity, if the recipe has it.
        loss: step and training loss, [S, 2].
        recall: step and mean R@1 on dev, [E, 2].
        precision: finished epochs and precision of similar and of dissimilar pairs, [E, 3], by aligned space, if
            watched.
        best_epoch: number of epochs at which dev chose the checkpoint.
    """

    method: str
    seed: int
    parts: Mapping[str, int]
    seconds: float
    retrieval: Result
    zero_shot: Result | None
    text_similarity: Result | None
    others: Mapping[str, Result]
    loss: np.ndarray
    recall: np.ndarray
    precision: Mapping[str, np.ndarray]
    best_epoch: int


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of the run's model on the zero-shot items.

    Attributes:
        modality: modality of the items.
        classes: names of the classes.
        prompts: templates of the prompts, as far as the recipe names them.
        counts: int64 [C, C]: right class, predicted class.
    """

    modality: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class GrowthFacts:
    """The last step of an extended model.

    Attributes:
        figures: the content of extension.json.
        history: every model of the line: digest, change, date, data, figures.
        elsewhere: modalities whose items are from the data of an ancestor, since that of the step has none.
    """

    figures: Mapping[str, Any]
    history: Sequence[Sequence[str]]
    elsewhere: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The content of a run's page.

    Attributes:
        name: name of the run.
        folder: last part of its folder.
        title: title of the page.
        version: version of LightCRL.
        split: split of retrieval, gallery and space.
        groups: number of groups by split.
        modalities: modalities of the run.
        models: models, the run's own first.
        settings: training settings, value by name.
        confusion: zero-shot classification, if the recipe has it.
        classes: embeddings of its items and of the prompts of their classes.
        space: embeddings of all modalities.
        gallery: queries with their results.
        notes: remarks on the data.
        heads: heads of the run's model by name.
        growth: the last step of an extended model; None for a model that was trained whole.
        imagined: pictures that its decoder draws of texts of the split, if it has a decoder.
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
    heads: Mapping[str, TrainedHead] = field(default_factory=dict)
    growth: GrowthFacts | None = None
    imagined: tuple[Imagined, ...] = ()

    @property
    def compared(self) -> tuple[ModelFacts, ...]:
        """The model of each method with the first seed; the run's own first."""
        return tuple(model for model in self.models if model.seed == self.models[0].seed)

    @property
    def directions(self) -> tuple[tuple[str, str, str], ...]:
        """Source, target, and the name with which its figures begin, for each direction."""
        named = ((a, b, f"{a}_to_{b}") for a, b in permutations((facts.name for facts in self.modalities), 2))
        return tuple(direction for direction in named if f"{direction[2]}/recall@1" in self.models[0].retrieval.metrics)


def gather(
    folder: Path | str,
    *,
    title: str = "",
    labels: Mapping[str, Mapping[str, str]] | None = None,
    notes: Iterable[str] = (),
    tell: Tell = lambda event: None,
) -> Report:
    """Read a finished run and evaluate its model again. Missing features are made again.

    Args:
        folder: folder of the run.
        title: title of the page, if not the run's name.
        labels: label by group name, by attribute of the groups. An attribute colours the space.
        notes: remarks on the data.
        tell: function that is called with events.

    Raises:
        CheckpointError: there is no finished run in `folder`.
        DataError: the run's data is gone.
    """
    folder = Path(folder)
    recipe, figures = _read(folder)
    dataset = load_dataset(recipe.data, recipe.kinds)
    checkpoint = load_checkpoint(folder)
    encoders = checkpoint.as_trained({modality: load_encoder(spec) for modality, spec in recipe.encoders.items()})
    stores, _ = encode_each(encoders, dataset, recipe.features, tell, max_rejected=recipe.data.max_rejected)
    features = Features(stores)
    method = checkpoint.method
    zero_shot = recipe.evaluation.zero_shot
    assert zero_shot is None or isinstance(zero_shot, ZeroShotSpec)
    classified = None
    if zero_shot is not None:
        classified = ZeroShotTask.prepare(zero_shot, Setting(encoders, recipe.features, tell))
    collection, names = _collect(method, features, dataset, recipe)
    attributes = {
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
                encoder_name(spec),
                modality in checkpoint.towers,
                token_shape(store),
                store.rows,
                store.nbytes,
            )
            for (modality, spec), store in zip(recipe.encoders.items(), stores.values(), strict=True)
        ),
        models=tuple(_model(recipe, folder, number, entry) for number, entry in enumerate(figures["models"])),
        settings=settings(recipe.method.options, recipe.training, folder),
        confusion=_confusion(classified, method, zero_shot.templates or ()) if classified and zero_shot else None,
        classes=_classes(classified, method) if classified else None,
        space=look(collection.vectors, collection.links, attributes),
        gallery=gallery(collection),
        notes=tuple(notes),
        heads=checkpoint.heads,
        imagined=_imagined(checkpoint, collection),
    )


def _imagined(checkpoint: Checkpoint, collection: Collection) -> tuple[Imagined, ...]:
    """Return pictures of the first texts of the split, if the model has a decoder."""
    if not head_names(checkpoint, DRAWING):
        return ()
    imaginer = Imaginer(Embedder(checkpoint, device="cpu"))
    texts = [str(item.read()) for item in collection.items[imaginer.drawing.source][:PROMPTS]]
    return gather_imagined(imaginer, texts, imaginer.imagine(texts, samples=SAMPLES), {})


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
    """Return the split's items with their embeddings, and the names of its groups."""
    split = features.split(recipe.evaluation.split)
    vectors, links = embed_split(method, features, split)
    items = {}
    for modality, members in split.members.items():
        keys = item_keys(features.store(modality))
        by_key = {item.key: item for item in dataset.items[modality]}
        items[modality] = [by_key[keys[row]] for row in np.unique(members.rows).tolist()]
    return Collection(recipe.kinds, items, vectors, links), features.names(recipe.evaluation.split)


def _model(recipe: Recipe, folder: Path, number: int, entry: Mapping[str, Any]) -> ModelFacts:
    # Runs may have been moved, so only the last part of the folder counts.
    place = folder / "others" / Path(entry["folder"]).name if number else folder
    return model_facts(place, entry, recipe.evaluation.tasks)


def model_facts(place: Path, entry: Mapping[str, Any], tasks: Iterable[str] = ()) -> ModelFacts:
    """Return the facts of a model from the folder of its training and its figures; `tasks` are further evaluations."""
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
        Result.from_json(entry["zero_shot"]) if entry.get("zero_shot") else None,
        Result.from_json(pairs) if pairs else None,
        {label: Result.from_json(entry[label]) for label in tasks if label in entry},
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
    """Return the items of at most `MOST` classes, the largest, with the classes' own vectors."""
    labels = prepared.items.labels
    shown = np.sort(np.argsort(-np.bincount(labels), kind="stable")[:MOST])
    here = np.flatnonzero(np.isin(labels, shown))
    vectors = {
        prepared.items.modality: prepared.items.vectors(method)[here],
        prepared.text: prepared.class_vectors(method)[shown],
    }
    groups = {prepared.items.modality: labels[here], prepared.text: shown}
    links = {name: np.stack([np.arange(len(numbers)), numbers], 1) for name, numbers in groups.items()}
    return look(vectors, links, {"class": dict(enumerate(prepared.classes))})


def settings(options: Mapping[str, Any], training: TrainingSpec, place: Path) -> dict[str, Any]:
    """Return the settings of a training by name, from its recipe and its log in `place`."""
    start = next(event for event in read_log(place) if event["event"] == "start")
    chosen = training.model_dump(mode="json", include={"loss", "schedule", "weight_decay"})
    planned = {name: start[name] for name in ("batch_size", "items_per_group", "epochs", "steps")}
    dropped = ", ".join(f"{name} {share:.2f}" for name, share in start.get("input_dropout", {}).items())
    followed = {"input_dropout": f"{options['input_dropout']} ({dropped})"} if dropped else {}
    return {**options, **followed, **planned, **chosen}


def encoder_name(spec: EncoderSpec) -> str:
    """Return the name of an encoder for people: of a folder its last part."""
    return Path(spec.model).name if Path(spec.model).is_absolute() else spec.model


def token_shape(store: Store) -> str:
    """Return number and width of the tokens in a store, in words."""
    most = f"up to {store.longest}"
    count = f"{store.slots} + {most}" if store.sequence else str(store.slots) if store.slots > 1 else most
    return f"{count} × {store.dim}"
