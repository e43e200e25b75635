"""Captions of held-out items against the texts of their groups, beside retrieval and people's own agreement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import Dataset, DataSpec, Rejection, load_dataset
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import DataError, ModalityError
from lightcrl.features import FeatureStore
from lightcrl.features.base import rows_by_item
from lightcrl.features.embed import embed_rows
from lightcrl.features.extract import encode_modality
from lightcrl.files.local import make_folder, write_text
from lightcrl.heads.captioning.head import PART, Captioning, CaptioningOptions
from lightcrl.heads.captioning.retrieval import RetrievalWriter
from lightcrl.heads.captioning.writer import CaptionWriter, Search
from lightcrl.metrics.captions import ORDERS, Cider, bleu, bleu_counts, rouge_l
from lightcrl.specs import parse
from lightcrl.tasks.base import EMBEDDING, Figures, Outcome, Setting, Task
from lightcrl.tasks.heads import head_names, load_head
from lightcrl.tasks.spec import TaskSpec

COUNTS = 2 * ORDERS + 2
"""First columns of an outcome: the counts of BLEU; then ROUGE-L and CIDEr-D."""
CAPTIONING = "captioning"
RETRIEVAL, PEOPLE = "retrieval", "people"


class CaptioningSpec(TaskSpec):
    """Settings of captioning.

    Attributes:
        data: held-out groups of items and their captions; by default the evaluation split of the recipe.
        format: source of that data, a member of `lightcrl.data.SOURCES`.
        columns: column by modality, of the items and of the captions; the recipe's by default.
        key: column of the group's name; by default the recipe's, if its columns are used.
        source: modality of the captioned items; by default the first that is not `target`.
        target: modality of the captions.
        head: name of the model's head; by default `captioning`, or its only captioner.
        beams: number of beams.
        retrieval: true to measure the consensus of the nearest training captions too (arXiv 1505.04467).
    """

    data: str | None = None
    format: str = "table"
    columns: dict[str, str] = Field(default_factory=dict)
    key: str | None = None
    source: str | None = None
    target: str = "text"
    head: str | None = None
    beams: int = Field(default=5, gt=0)
    retrieval: bool = False


@dataclass(frozen=True)
class CaptioningTask(Task):
    """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D; the units are groups, one item of each.

    Spaces:

    - `embedding`: the model's captioner.
    - `retrieval`: the consensus of the nearest training captions, if the settings ask for it.
    - `people`: the first reference of each group against its others, if all have two.

    Attributes:
        store: features of the items.
        rows: row of each group's item, [G].
        sources: origins of the items.
        references: captions of each group.
        names: modalities of the items and of the captions.
        spec: settings.
        training: training captions and the store with their features; None without `spec.retrieval`.
        rejected: rows and items set aside.
    """

    Spec: ClassVar[type[TaskSpec]] = CaptioningSpec
    name: ClassVar[str] = "CaptioningTask"
    drawn: ClassVar[str] = "groups"
    headlines: ClassVar[Sequence[tuple[str, str]]] = ((EMBEDDING, "bleu_4"), (EMBEDDING, "cider"))

    store: FeatureStore
    rows: np.ndarray
    sources: tuple[str, ...]
    references: tuple[list[str], ...]
    names: tuple[str, str]
    spec: CaptioningSpec
    training: tuple[list[str], FeatureStore, np.ndarray] | None = None
    rejected: tuple[Rejection, ...] = ()

    @classmethod
    def modalities(cls, spec: CaptioningSpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """Return the modality of the items, and that of the captions for `retrieval`."""
        source, target = _names(spec, kinds)
        return (source, target) if spec.retrieval else (source,)

    @classmethod
    def prepare(cls, spec: CaptioningSpec, setting: Setting) -> CaptioningTask:
        """Read the groups and encode their items; with `retrieval`, the training captions too.

        Raises:
            DataError: no group has both an item and a caption.
        """
        bleu_counts([], [])  # refuses a missing package before anything is encoded
        names = _names(spec, {name: encoder.kind for name, encoder in setting.encoders.items()})
        kinds = {names[0]: setting.encoders[names[0]].kind, names[1]: "text"}
        dataset, split = _dataset(spec, setting, kinds)
        items, rejected = _encode(dataset, names[0], setting)
        groups = _groups(dataset, split, items, names)
        if not groups:
            raise DataError(
                f"no group of {spec.data or split!r} has both an item of {names[0]!r} and a caption of {names[1]!r}; "
                "expected some. Captions are the texts of an item's group."
            )
        rows, sources, references = zip(*groups, strict=True)
        training = _training_captions(names[1], setting) if spec.retrieval else None
        return cls(items, np.array(rows), sources, references, names, spec, training, tuple(rejected))

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of groups."""
        return len(self.rows)

    @property
    def identity(self) -> Sequence[Any]:  # type: ignore[override]
        """Items, references and the search."""
        captions = None if self.training is None else fingerprint([self.training[0], self.training[1].fingerprint])
        texts = fingerprint([self.rows.tolist(), list(self.references)])
        return [self.store.fingerprint, texts, self.spec.head, self.spec.beams, captions]

    def measure(self, checkpoint: Checkpoint, folder: Path | None = None) -> Outcome:
        """Return, by space, [G, 12]: BLEU's counts, ROUGE-L and CIDEr-D; captions are kept in `folder`.

        Raises:
            HeadError: the model has no captioner, and the settings do not ask for retrieval.
        """
        outcome = {}
        if self.spec.head is not None or head_names(checkpoint, CAPTIONING) or self.training is None:
            head = load_captioner(checkpoint, self.spec.head)
            captions = self._write(checkpoint, head.writer, head.search(beams=self.spec.beams))
            outcome[EMBEDDING] = self._outcome(captions)
            if folder is not None:
                self._keep(make_folder(folder) / "captions.jsonl", captions)
        if self.training is not None:
            outcome[RETRIEVAL] = self._outcome(self._write(checkpoint, self._retrieval(checkpoint), Search(beams=1)))
        return Outcome(outcome)

    def baseline(self) -> Outcome:
        """Return the agreement of people: the first reference against the others."""
        if min(map(len, self.references)) < 2:
            return Outcome({})
        others = [texts[1:] for texts in self.references]
        return Outcome({PEOPLE: _columns([texts[0] for texts in self.references], others)})

    def figures(self, space: str, outcome: np.ndarray) -> Figures:
        """Return `bleu_1` to `bleu_4` of the corpus, and the means of `rouge_l` and `cider`."""

        def figures(weights: np.ndarray) -> Mapping[str, np.ndarray]:
            means = weights @ outcome[:, COUNTS:] / weights.sum(1, keepdims=True)
            return {**bleu(weights @ outcome[:, :COUNTS]), "rouge_l": means[:, 0], "cider": means[:, 1]}

        return figures

    def _write(self, checkpoint: Checkpoint, writer: CaptionWriter, search: Search) -> list[str]:
        """Return the best caption of each group's item."""
        method, name, captions = checkpoint.method, self.names[0], []
        device = next(method.parameters()).device
        writer.to(device)
        for start in range(0, len(self.rows), PART):
            rows = self.rows[start : start + PART]
            vectors = embed_rows(method, self.store, name, rows).to(device)
            tokens = self.store.gather(rows).to(device, torch.float32)
            captions += [best[0].text for best in writer.write(tokens, vectors, search)]
        return captions

    def _retrieval(self, checkpoint: Checkpoint) -> RetrievalWriter:
        assert self.training is not None
        texts, store, rows = self.training
        target = self.names[1]
        writer = RetrievalWriter(
            checkpoint.method.modalities[self.names[0]], checkpoint.method.dim, CaptioningOptions(decoder=RETRIEVAL)
        )
        writer.learn(texts, lambda: embed_rows(checkpoint.method, store, target, rows))
        return writer

    def _outcome(self, captions: Sequence[str]) -> np.ndarray:
        return _columns(captions, self.references)

    def _keep(self, path: Path, captions: Sequence[str]) -> None:
        lines = zip(self.sources, captions, self.references, strict=True)
        entries = [{"source": source, "caption": text, "references": texts} for source, text, texts in lines]
        write_text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def load_captioner(checkpoint: Checkpoint, name: str | None = None) -> Captioning:
    """Return a captioner of a model in eval mode: by default the one called `captioning`, or the only one.

    Raises:
        HeadError: there is none, or there are several, or the head called `name` is no captioner.
    """
    return load_head(checkpoint, CAPTIONING, Captioning, "captioner", name)


def _columns(captions: Sequence[str], references: Sequence[list[str]]) -> np.ndarray:
    scores = rouge_l(captions, references), Cider(references)(captions, references)
    return np.column_stack([bleu_counts(captions, references), *scores])


def _names(spec: CaptioningSpec, kinds: Mapping[str, str]) -> tuple[str, str]:
    """Return the modality of the items and that of the captions.

    Raises:
        ModalityError: the model has no such modality.
    """
    source = spec.source or next((name for name in kinds if name != spec.target), None)
    for name in (source, spec.target if spec.retrieval else source):
        if name not in kinds:
            raise ModalityError(
                f"no modality {name or 'beside ' + spec.target!r} to caption in this model; it has {', '.join(kinds)}. "
                "Name it with source, and that of the captions with target."
            )
    return str(source), spec.target


def _dataset(spec: CaptioningSpec, setting: Setting, kinds: Mapping[str, str]) -> tuple[Dataset, str]:
    """Return the groups to caption, and the split that they are in."""
    if spec.data is None:
        if setting.data is None:
            raise DataError("captioning has no data; expected a table of items and their captions.")
        every = {**kinds, **{name: encoder.kind for name, encoder in setting.encoders.items()}}
        return load_dataset(setting.data, every), setting.split
    own = {name: column for name, column in (setting.data.columns if setting.data else {}).items() if name in kinds}
    key = spec.key or (setting.data.key if setting.data and not spec.columns else None)
    table = {"source": spec.format, "path": spec.data, "columns": spec.columns or own, "key": key, "dev_fraction": 0.0}
    dataset = load_dataset(parse(DataSpec, table, "data"), dict(kinds))
    return replace(dataset, splits=["test"] * len(dataset.groups)), "test"


def _encode(dataset: Dataset, modality: str, setting: Setting) -> tuple[FeatureStore, list[Rejection]]:
    done = encode_modality(setting.encoders[modality], dataset, modality, setting.storage, setting.tell)
    return done.store, [*dataset.rejected, *done.rejected]


def _groups(
    dataset: Dataset, split: str, store: FeatureStore, names: tuple[str, str]
) -> list[tuple[int, str, list[str]]]:
    """Return row and origin of the first item, and the captions, of every group with both."""
    source, target = names
    places = rows_by_item(store)
    items: dict[int, tuple[int, str]] = {}
    for number, group in dataset.links[source].tolist():
        item = dataset.items[source][number]
        if item.key in places:
            items.setdefault(group, (places[item.key], item.source))
    captions: dict[int, list[str]] = {}
    for number, group in dataset.links[target].tolist():
        captions.setdefault(group, []).append(dataset.items[target][number].read())
    chosen = [group for group, name in enumerate(dataset.splits) if name == split and group in items]
    return [(*items[group], captions[group]) for group in chosen if group in captions]


def _training_captions(target: str, setting: Setting) -> tuple[list[str], FeatureStore, np.ndarray]:
    """Return the training captions, their store and their rows.

    Raises:
        DataError: the training data of the model is unknown.
    """
    if setting.data is None:
        raise DataError("retrieval needs the captions that the model was trained on; its recipe does not say its data.")
    dataset = load_dataset(setting.data, {name: encoder.kind for name, encoder in setting.encoders.items()})
    store, _ = _encode(dataset, target, setting)
    places = rows_by_item(store)
    trained = {number for number, group in dataset.links[target].tolist() if dataset.splits[group] == "train"}
    items = [dataset.items[target][number] for number in sorted(trained)]
    items = [item for item in items if item.key in places]
    return [item.read() for item in items], store, np.array([places[item.key] for item in items])
