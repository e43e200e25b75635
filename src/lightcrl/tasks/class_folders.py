"""Two sets of class folders, for fitting and for measuring: listed and checked before they are encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lightcrl.data import Dataset, Item, Rejection
from lightcrl.data.base import file_item
from lightcrl.data.classes import class_folders
from lightcrl.data.files import MEDIA, some
from lightcrl.data.folder import class_folder, split_folders
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError, EmptyDatasetError, ItemError, ModalityError
from lightcrl.events import Tell
from lightcrl.features import FeatureStore
from lightcrl.features.embed import embed_rows
from lightcrl.features.extract import encode_modality
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.local import cache_folder
from lightcrl.methods import Method
from lightcrl.tasks.base import Setting, Task
from lightcrl.tasks.spec import TaskSpec

LEAST = 2
"""Least number of files per class in train: one to fit, one held out."""


class FoldersSpec(TaskSpec):
    """Settings of a task on class folders.

    Attributes:
        data: the folder, or the id of a labelled data set on the hub, which is written as class folders once.
        picture: column of pictures of a hub data set.
        label: column of classes of a hub data set.
    """

    data: str
    picture: str = "image"
    label: str = "label"

    def folder(self) -> Path:
        """Return the place of the class folders; a data set on the hub is written there."""
        cache = cache_folder() / "classes"
        return class_folders(self.data, cache, picture=self.picture, label=self.label)


class TrainTestSpec(FoldersSpec):
    """Settings of a task that fits on some class folders and measures on others.

    Attributes:
        data: folder of class folders to fit on; with neither `test` nor `test_files`, one that holds the folders
            `train` and `test` (or `dev`). May be an id on the hub.
        test: folder to measure on; `data` itself by default, with other files.
        files: pattern of the file names to fit on.
        test_files: pattern of the file names to measure on.
        modality: modality of the items; by default the first that is not text.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("data", "test")

    test: str | None = None
    files: str = "*"
    test_files: str | None = None
    modality: str | None = None

    def encode(self, setting: Setting) -> tuple[ClassItems, ClassItems, Encoder]:
        """Return the items of train and of test, both numbered by the classes of train, and their encoder.

        Raises:
            DataError: there is no test data, a file is in both parts, there is only one class, a class of test is
                missing in train, or a class of train has a single file.
            ModalityError: no encoder is for pictures or sounds.
        """
        kinds = {modality: encoder.kind for modality, encoder in setting.encoders.items()}
        media = media_modality(kinds, self.modality)
        encoder = setting.encoders[media]
        fitted, measured = (ClassFiles.find(*place, media, encoder.kind) for place in self.places())
        check_classes(fitted, measured)
        train, unseen = (files.encode(encoder, media, setting.storage, setting.tell) for files in (fitted, measured))
        check_counts(train.labels, train.names, fitted.root)
        number = {name: place for place, name in enumerate(train.names)}
        labels = np.array([number[unseen.names[label]] for label in unseen.labels], dtype=np.int64)
        return train, replace(unseen, labels=labels, names=train.names), encoder

    def places(self) -> list[tuple[str | Path, str]]:
        """Return folder and pattern of train and of test.

        Raises:
            DataError: the settings do not name test data.
        """
        data = self.folder()
        if self.test is not None or self.test_files is not None:
            return [(data, self.files), (self.test or data, self.test_files or "*")]
        by_split = {split: folder for folder, split in split_folders(data).items()}
        # Some data sets withhold the labels of test.
        test = by_split.get("test", by_split.get("dev"))
        if "train" not in by_split or test is None:
            raise DataError(
                f"{data} has {', '.join(by_split) or 'no split folder'}; expected the folders train and test (or "
                "dev). Else give another folder (--test FOLDER) or patterns of file names (--files '[1-4]-*' "
                "--test-files '5-*')."
            )
        return [(by_split["train"], self.files), (test, self.files)]


class TrainTestTask(Task):
    """A task on the items of a `TrainTestSpec`; the units are items of test.

    Attributes:
        train: items for fitting.
        test: measured items, with classes numbered as in `train`.
    """

    train: ClassItems
    test: ClassItems

    @classmethod
    def modalities(cls, spec: TrainTestSpec, kinds: Mapping[str, str]) -> Sequence[str]:
        """The modality of the items."""
        return (media_modality(kinds, spec.modality),)

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of items of test."""
        return len(self.test.labels)

    @property
    def parts(self) -> list[Any]:
        """Items and labels of train and of test, for an identity."""
        return [[part.store.fingerprint, part.labels.tolist()] for part in (self.train, self.test)]

    @property
    def rejected(self) -> Sequence[Rejection]:  # type: ignore[override]
        """Files set aside."""
        return (*self.train.rejected, *self.test.rejected)


def check_classes(train: ClassFiles, test: ClassFiles) -> None:
    """Refuse class folders that make figures wrong or impossible.

    Raises:
        DataError: a file is in both parts, a class of test is missing in train, or a class of train has a single file.
    """
    fitted = {path.resolve() for path, _ in train.files}
    both = [str(path) for path, _ in test.files if path.resolve() in fitted]
    if both:
        raise DataError(
            f"{len(both):,} of {len(test.files):,} files of test are in train too ({some(both, 2)}); expected files "
            "that the probe was not fitted on."
        )
    trained = {train.names[label] for _, label in train.files}
    missing = [name for name in test.names if name not in trained]
    if missing:
        raise DataError(
            f"{test.root} has classes that {train.root} lacks: {some(missing)}. Expected only classes of train."
        )
    check_counts(np.array([label for _, label in train.files]), train.names, train.root)


def check_counts(labels: np.ndarray, names: tuple[str, ...], root: Path) -> None:
    """Refuse classes with too few files.

    Raises:
        DataError: a class has fewer than `LEAST`.
    """
    counts = np.bincount(labels, minlength=len(names))
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < LEAST]
    if few:
        raise DataError(
            f"{root}: too few files in {some(few)}; expected at least {LEAST} of each class: one to fit, one held for "
            "the choice of the regularisation strength."
        )


@dataclass(frozen=True)
class ClassFiles:
    """The pictures or sounds of a folder of class folders.

    Attributes:
        root: the folder.
        names: names of the class folders with such files.
        files: files, each with the number of its class.
    """

    root: Path
    names: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]

    @classmethod
    def find(cls, root: Path | str, pattern: str, modality: str, kind: str) -> ClassFiles:
        """List the files of a modality of this kind whose names match the pattern.

        Raises:
            DataError: fewer than two classes have files.
            EmptyDatasetError: none of them is of the modality's kind.
        """
        names, listed = class_folder(root, pattern)
        files = tuple((path, label) for path, label in listed if MEDIA.get(path.suffix.lower()) == kind)
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
    """The encoded items of class folders.

    Attributes:
        modality: modality of the items.
        store: features of the items.
        rows: rows of the store, [N].
        labels: class numbers, [N].
        names: names of the class folders.
        rejected: files set aside.
        raw: raw items of the store.
    """

    modality: str
    store: FeatureStore
    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    raw: tuple[Item, ...] = ()

    def vectors(self, method: Method) -> Tensor:
        """Return unit vectors [N, d] of the items."""
        return embed_rows(method, self.store, self.modality, self.rows)


def media_modality(kinds: Mapping[str, str], wanted: str | None = None) -> str:
    """Return the modality of the items in class folders: the wanted one, otherwise the first of pictures or sounds.

    Raises:
        ModalityError: there is no such modality.
    """
    if wanted is not None and wanted not in kinds:
        raise ModalityError(f"no modality {wanted!r}; there are {', '.join(kinds)}.")
    return wanted or _first(kinds, lambda kind: kind in ("image", "audio"), "pictures or sounds")


def text_modality(kinds: Mapping[str, str]) -> str:
    """Return the first modality of texts.

    Raises:
        ModalityError: there is no such modality.
    """
    return _first(kinds, lambda kind: kind == "text", "text")


def _first(kinds: Mapping[str, str], wanted: Callable[[str], bool], what: str) -> str:
    for modality, kind in kinds.items():
        if wanted(kind):
            return modality
    raise ModalityError(f"class folders need a modality of {what}; there are {', '.join(kinds)}.")


def _file_dataset(files: Sequence[tuple[Path, int]], root: Path, modality: str) -> Dataset:
    """Return files as items; equal files are one item with several groups."""
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
