"""The linear probe on class folders: every file encoded once, every model of a run beside the raw encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lightcrl.data.files import some
from lightcrl.data.folder import split_folders
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError
from lightcrl.evaluation.base import Result
from lightcrl.evaluation.linear_probe import evaluate
from lightcrl.evaluation.tasks import ClassFiles, ClassItems, Tell, media_modality
from lightcrl.features.embed import own_rows
from lightcrl.methods import Method
from lightcrl.recipe import FeaturesSpec

LEAST = 2
"""Files of a class in train: one to fit, one held for the choice of the strength."""


@dataclass(frozen=True)
class LinearProbe:
    """Two sets of class folders, encoded and ready to probe any methods on.

    Spaces are `raw <modality>`, the encoder by itself (`Encoder.own_vectors`), and one for each method by its label.

    Attributes:
        train: what probes are fitted on.
        test: what they are measured on, classes numbered as in `train`.
        raw: the encoder's own vectors of both, [N, D] and [M, D].
    """

    train: ClassItems
    test: ClassItems
    raw: tuple[Tensor, Tensor]

    @classmethod
    def prepare(
        cls,
        data: str,
        test: str | None,
        encoders: Mapping[str, Encoder],
        features: FeaturesSpec,
        *,
        files: str = "*",
        test_files: str | None = None,
        modality: str | None = None,
        tell: Tell = lambda event: None,
    ) -> LinearProbe:
        """Read both folders, see that they can be used, and only then encode.

        Args:
            data: folder of class folders to fit on; with neither `test` nor `test_files`, one that holds the folders
                `train` and `test`.
            test: folder to measure on; `data` itself by default, with other files.
            encoders: by modality.
            features: where their outputs are kept.
            files: pattern of the names of files to fit on.
            test_files: pattern of those to measure on.
            modality: whose items they are; by default the first that is not text.
            tell: called with what happens.

        Raises:
            DataError: there is nothing to test on, a file stands in both parts, one class only, a class of test is
                missing in train, or one of train has a single file.
            ModalityError: no encoder is of pictures or sounds.
        """
        train, unseen, encoder = encode_classes(data, test, encoders, features, files, test_files, modality, tell)
        raw = (own_rows(encoder, train.store, train.rows), own_rows(encoder, unseen.store, unseen.rows))
        return cls(train, unseen, raw)

    def __call__(self, methods: Mapping[str, Method]) -> Result:
        """Figures of every space; `methods` by label."""
        train, test = {f"raw {self.train.modality}": self.raw[0]}, {f"raw {self.train.modality}": self.raw[1]}
        for label, method in methods.items():
            train[label], test[label] = self.train.vectors(method), self.test.vectors(method)
        return evaluate(train, self.train.labels, test, self.test.labels)


def encode_classes(
    data: str,
    test: str | None,
    encoders: Mapping[str, Encoder],
    features: FeaturesSpec,
    files: str,
    test_files: str | None,
    modality: str | None,
    tell: Tell,
) -> tuple[ClassItems, ClassItems, Encoder]:
    """The items of train and of test, numbered by the classes of train, and their encoder; for the rest see
    `LinearProbe.prepare`.
    """
    media = media_modality(encoders, modality)
    encoder = encoders[media]
    places = class_places(data, test, files, test_files)
    fitted, measured = (ClassFiles.find(*place, media, encoder.kind) for place in places)
    check_classes(fitted, measured)
    train, unseen = (found.encode(encoder, media, features, tell) for found in (fitted, measured))
    check_counts(train.labels, train.names, fitted.root)
    number = {name: place for place, name in enumerate(train.names)}
    labels = np.array([number[unseen.names[label]] for label in unseen.labels], dtype=np.int64)
    return train, replace(unseen, labels=labels, names=train.names), encoder


def class_places(data: str, test: str | None, files: str, test_files: str | None) -> list[tuple[str | Path, str]]:
    """Folder and pattern of train and of test.

    Raises:
        DataError: nothing says what to test on.
    """
    if test is not None or test_files is not None:
        return [(data, files), (test or data, test_files or "*")]
    by_split = {split: folder for folder, split in split_folders(data).items()}
    by_split.setdefault("test", by_split.get("dev", Path()))  # some data sets keep the labels of test to themselves
    if "train" not in by_split or by_split["test"] == Path():
        found = ", ".join(split for split, folder in by_split.items() if folder != Path()) or "no split folder"
        raise DataError(
            f"{data} has {found}; expected the folders train and test (or dev). Else give another folder (--test "
            "FOLDER) or patterns of file names (--files '[1-4]-*' --test-files '5-*')."
        )
    return [(by_split["train"], files), (by_split["test"], files)]


def check_classes(train: ClassFiles, test: ClassFiles) -> None:
    """Refuse what would make figures wrong or impossible.

    Raises:
        DataError: a file stands in both parts, a class of test is missing in train, or one of train has a single file.
    """
    fitted = {path.resolve() for path, _ in train.files}
    both = [str(path) for path, _ in test.files if path.resolve() in fitted]
    if both:
        raise DataError(
            f"{len(both):,} of {len(test.files):,} files of test are in train too ({some(both, 2)}); expected files "
            "that the probe was not fitted on."
        )
    known = {train.names[label] for _, label in train.files}
    missing = [name for name in test.names if name not in known]
    if missing:
        raise DataError(
            f"{test.root} has classes that {train.root} has not: {some(missing)}. Expected none that train lacks."
        )
    check_counts(np.array([label for _, label in train.files]), train.names, train.root)


def check_counts(labels: np.ndarray, names: tuple[str, ...], root: Path) -> None:
    """Refuse classes of too few files.

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
