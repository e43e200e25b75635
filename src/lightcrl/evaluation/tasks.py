"""Evaluations on raw files: read, encode once into the feature store, score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.data import Dataset, DataSpec, Item, Rejection, load_dataset
from lightcrl.data.base import file_item
from lightcrl.data.files import MEDIA
from lightcrl.data.folder import class_folder, readable_class
from lightcrl.encoders.base import Encoder
from lightcrl.errors import EmptyDatasetError, ItemError, ModalityError
from lightcrl.evaluation.base import Result
from lightcrl.evaluation.retrieval import Retrieval
from lightcrl.evaluation.spec import ZeroShotSpec
from lightcrl.evaluation.zero_shot import TEMPLATES, class_vectors, evaluate, label_ranks, prompts
from lightcrl.features import Extraction, Features, FeatureStore, extract
from lightcrl.features.embed import embed_rows, embed_split
from lightcrl.methods import Method
from lightcrl.recipe import FeaturesSpec
from lightcrl.tokens import TokenBatch

Tell = Callable[[Mapping[str, Any]], None]


def retrieval_on(
    method: Method,
    encoders: Mapping[str, Encoder],
    data: DataSpec,
    features: FeaturesSpec,
    tell: Tell = lambda event: None,
) -> tuple[Result, list[Rejection]]:
    """Retrieval on a data set that the model has never seen; all its groups are taken, whatever their split.

    Raises:
        DataError: the data cannot be used.
        EmptyDatasetError: no group has items of two modalities.
    """
    opened, rejected = encode_groups(encoders, data, features, tell)
    vectors, links = embed_split(method, opened, opened.split("test"))
    retrieval = Retrieval(links)
    return replace(retrieval(vectors), curves=retrieval.curves(vectors)), rejected


def encode_groups(
    encoders: Mapping[str, Encoder], data: DataSpec, features: FeaturesSpec, tell: Tell = lambda event: None
) -> tuple[Features, list[Rejection]]:
    """All groups of a data set, encoded, in one split `test`; and what was set aside.

    Raises:
        DataError: the data cannot be used.
    """
    dataset = load_dataset(data, {modality: encoder.kind for modality, encoder in encoders.items()})
    dataset = Dataset(dataset.groups, ["test"] * len(dataset.groups), dataset.items, dataset.links, dataset.rejected)
    rejected = list(dataset.rejected)
    stores = {}
    for modality, encoder in encoders.items():
        done = encode_modality(encoder, dataset, modality, features, tell, max_rejected=data.max_rejected)
        stores[modality] = done.store
        rejected += done.rejected
    return Features(stores), rejected


@dataclass(frozen=True)
class ClassFiles:
    """The pictures or sounds of a folder of class folders.

    Attributes:
        root: the folder.
        names: of the class folders that have such files.
        files: each with the number of its class.
    """

    root: Path
    names: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]

    @classmethod
    def find(cls, root: Path | str, pattern: str, modality: str, kind: str) -> ClassFiles:
        """Look for files of a modality of this kind whose names fit the pattern.

        Raises:
            DataError: fewer than two classes have files.
            EmptyDatasetError: none of them is of the modality's kind.
        """
        names, found = class_folder(root, pattern)
        files = tuple((path, label) for path, label in found if MEDIA.get(path.suffix.lower()) == kind)
        if not files:
            raise EmptyDatasetError(f"{root} has no {kind} files; expected <class>/<file> for modality {modality!r}.")
        return cls(Path(root), tuple(names), files)

    def encode(self, encoder: Encoder, modality: str, features: FeaturesSpec, tell: Tell) -> ClassItems:
        """Encode every file once."""
        dataset = _file_dataset(self.files, self.root, modality)
        done = encode_modality(encoder, dataset, modality, features, tell)
        # The group of a file is its number, so that labels follow from the store's own metadata.
        table = done.store.metadata()
        labels = np.array([self.files[int(group)][1] for group in table["group"].to_pylist()], dtype=np.int64)
        aside = (*dataset.rejected, *done.rejected)
        raw = tuple(dataset.items[modality])
        return ClassItems(modality, done.store, table["row"].to_numpy(), labels, self.names, aside, raw)


@dataclass(frozen=True)
class ClassItems:
    """What class folders hold, encoded.

    Attributes:
        modality: whose items they are.
        store: their features.
        rows: [N] rows of the store.
        labels: [N] class numbers.
        names: of the class folders.
        rejected: files set aside.
        raw: the raw items that the store was made from.
    """

    modality: str
    store: FeatureStore
    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    raw: tuple[Item, ...] = ()

    def vectors(self, method: Method) -> Tensor:
        """Unit vectors [N, d] of the items."""
        return embed_rows(method, self.store, self.modality, self.rows)


@dataclass(frozen=True)
class ZeroShot:
    """A folder of class folders, encoded and ready to score any method on.

    Attributes:
        items: what the folder holds.
        classes: readable class names.
        text: the modality of the prompts.
        tokens: of all prompts, classes first.
    """

    items: ClassItems
    classes: tuple[str, ...]
    text: str
    tokens: TokenBatch

    @classmethod
    def prepare(
        cls,
        spec: ZeroShotSpec,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        tell: Tell = lambda event: None,
    ) -> ZeroShot:
        """Read the folder and encode its items and the prompts.

        Raises:
            DataError: the folder has no class folders.
            ModalityError: the encoders lack text, or anything but text.
        """
        media = media_modality(encoders, spec.modality)
        text = _first(encoders, lambda kind: kind == "text", "text")
        found = ClassFiles.find(spec.data, spec.files, media, encoders[media].kind)
        items = found.encode(encoders[media], media, features, tell)
        classes = tuple(readable_class(name) for name in items.names)
        templates = spec.templates or TEMPLATES[encoders[media].kind]
        prepared = [encoders[text].prepare(prompt) for prompt in prompts(classes, templates)]
        size = encoders[text].batch_size
        tokens = [
            sequence
            for start in range(0, len(prepared), size)
            for sequence in encoders[text].encode(prepared[start : start + size]).to("cpu", torch.float32).ragged()
        ]
        return cls(items, classes, text, TokenBatch.from_ragged(tokens))

    def __call__(self, method: Method) -> Result:
        """Top-1 to top-5 accuracy."""
        return evaluate(self.items.vectors(method), self.items.labels, self.class_vectors(method))

    def per_item(self, method: Method) -> np.ndarray:
        """[N, 3] how each item's right class fares; see `ranking.ranks`."""
        return label_ranks(self.items.vectors(method), self.items.labels, self.class_vectors(method))

    @torch.inference_mode()
    def class_vectors(self, method: Method) -> Tensor:
        """Unit vectors [C, d] of the classes."""
        method.eval()
        device = next(method.parameters()).device
        return class_vectors(method(self.text, self.tokens.to(device)).cpu(), len(self.classes))


def media_modality(encoders: Mapping[str, Encoder], wanted: str | None = None) -> str:
    """The modality that class folders hold: the one wanted, else the first of pictures or sounds.

    Raises:
        ModalityError: there is none.
    """
    if wanted is not None and wanted not in encoders:
        raise ModalityError(f"no modality {wanted!r}; there are {', '.join(encoders)}.")
    return wanted or _first(encoders, lambda kind: kind != "text", "pictures or sounds")


def _first(encoders: Mapping[str, Encoder], wanted: Callable[[str], bool], what: str) -> str:
    for modality, encoder in encoders.items():
        if wanted(encoder.kind):
            return modality
    raise ModalityError(f"class folders need a modality of {what}; there are {', '.join(encoders)}.")


def _file_dataset(files: Sequence[tuple[Path, int]], root: Path, modality: str) -> Dataset:
    """Files as items; equal files are one item with several groups."""
    items: list[Item] = []
    places: dict[str, int] = {}
    links: list[tuple[int, int]] = []
    rejected: list[Rejection] = []
    for number, (path, _) in enumerate(files):
        try:
            item = file_item(path, root)
        except ItemError as error:
            rejected.append(Rejection(str(path), error.reason, error.detail, modality))
            continue
        if item.key not in places:
            places[item.key] = len(items)
            items.append(item)
        links.append((places[item.key], number))
    names = [str(number) for number in range(len(files))]
    return Dataset(names, ["test"] * len(files), {modality: items}, {modality: np.array(sorted(links))}, rejected)


def encode_modality(
    encoder: Encoder,
    dataset: Dataset,
    modality: str,
    features: FeaturesSpec,
    tell: Tell,
    *,
    strict: bool = False,
    max_rejected: float = 0.2,
) -> Extraction:
    """`extract` as a recipe's `[features]` table has it, its progress told as events `encode` and `encoded`."""
    done = extract(
        encoder,
        dataset,
        modality,
        features.folder,
        dtype=features.dtype,
        strict=strict,
        max_rejected=max_rejected,
        workers=features.workers,
        engine=features.engine,
        crew=features.crew,
        progress=lambda at, total: tell({"event": "encode", "modality": modality, "done": at, "total": total}),
        tell=tell,
    )
    tell(
        {
            "event": "encoded",
            "modality": modality,
            "items": done.store.rows,
            "encoded": done.encoded,
            "copied": done.copied,
            "kept": done.kept,
            "rejected": dict(Counter(one.reason for one in done.rejected)),
            "folder": str(done.store.folder),
            "bytes": done.store.nbytes,
        }
    )
    return done
