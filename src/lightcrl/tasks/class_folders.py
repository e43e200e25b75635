"""Two sets of class folders, one to fit on and one to measure on: found, checked, and only then encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightcrl.data.files import some
from lightcrl.data.folder import split_folders
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError
from lightcrl.recipe import FeaturesSpec
from lightcrl.tasks.raw import ClassFiles, ClassItems, Tell, media_modality

LEAST = 2
"""Files of a class in train: one to fit, one held."""


@dataclass(frozen=True)
class ClassFolders:
    """Where they are.

    Attributes:
        data: folder of class folders to fit on; with neither `test` nor `test_files`, one that holds the folders
            `train` and `test` (or `dev`).
        test: folder to measure on; `data` itself by default, with other files.
        files: pattern of the names of files to fit on.
        test_files: pattern of those to measure on.
        modality: whose items they are; by default the first that is not text.
    """

    data: str
    test: str | None = None
    files: str = "*"
    test_files: str | None = None
    modality: str | None = None

    def encode(
        self, encoders: Mapping[str, Encoder], features: FeaturesSpec, tell: Tell = lambda event: None
    ) -> tuple[ClassItems, ClassItems, Encoder]:
        """The items of train and of test, both numbered by the classes of train, and their encoder.

        Args:
            encoders: by modality.
            features: where their outputs are kept.
            tell: called with what happens.

        Raises:
            DataError: there is nothing to test on, a file stands in both parts, one class only, a class of test is
                missing in train, or one of train has a single file.
            ModalityError: no encoder is of pictures or sounds.
        """
        media = media_modality(encoders, self.modality)
        encoder = encoders[media]
        fitted, measured = (ClassFiles.find(*place, media, encoder.kind) for place in self.places())
        check_classes(fitted, measured)
        train, unseen = (found.encode(encoder, media, features, tell) for found in (fitted, measured))
        check_counts(train.labels, train.names, fitted.root)
        number = {name: place for place, name in enumerate(train.names)}
        labels = np.array([number[unseen.names[label]] for label in unseen.labels], dtype=np.int64)
        return train, replace(unseen, labels=labels, names=train.names), encoder

    def places(self) -> list[tuple[str | Path, str]]:
        """Folder and pattern of train and of test.

        Raises:
            DataError: nothing says what to test on.
        """
        if self.test is not None or self.test_files is not None:
            return [(self.data, self.files), (self.test or self.data, self.test_files or "*")]
        by_split = {split: folder for folder, split in split_folders(self.data).items()}
        # Some data sets keep the labels of test to themselves.
        test = by_split.get("test", by_split.get("dev"))
        if "train" not in by_split or test is None:
            raise DataError(
                f"{self.data} has {', '.join(by_split) or 'no split folder'}; expected the folders train and test (or "
                "dev). Else give another folder (--test FOLDER) or patterns of file names (--files '[1-4]-*' "
                "--test-files '5-*')."
            )
        return [(by_split["train"], self.files), (test, self.files)]


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
