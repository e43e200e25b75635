"""Pictures or sounds in folders, with a folder per class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from lightcrl.data.base import Item, Rejection, Row, file_item, text_item
from lightcrl.data.files import MEDIA, SPLITS, existing, name_below, some, visible
from lightcrl.errors import DataError, ItemError, ModalityError, UnknownNameError

_SYNSET = re.compile(r"^n\d{8}(?=.)|^\d+\.(?=.)")  # n02084071-dog (WordNet), 001.Dog (CUB)
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s_\-+.]+")
_EXPECTED = "a folder with one folder per class: <path>/<class>/<file>, or <path>/train/<class>/<file>"


@dataclass(frozen=True)
class ClassFolder:
    """`path/<class>/<file>`, or `path/{train,dev,val,test}/<class>/<file>`; every file is a group.

    Pictures go to each modality of kind `"image"`, sounds to each of kind `"audio"`; each of kind `"text"` has the
    name of the class.

    Attributes:
        kinds: `"text"`, `"image"` or `"audio"` by modality.
        path: the folder.
        template: caption with `{}` in place of the class name.
        splits: split by pattern of file names (`"5-*"`), for example of folds; the first match counts.
        base: folder to which file names are relative; two folders with files of the same name need a common base.
    """

    kinds: Mapping[str, str]
    path: str | Path
    template: str = "{}"
    splits: Mapping[str, str] = field(default_factory=dict)
    base: str | Path | None = None

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield every file, by split, class and name.

        Raises:
            DataError: there are no class folders, `template` has no `{}`, or `splits` names an unknown split or is
                combined with split folders.
            ModalityError: no modality is a picture or a sound.
        """
        if "{}" not in self.template:
            raise DataError(f"template {self.template!r} has no {{}} to put the class into.")
        if not {"image", "audio"} & set(self.kinds.values()):
            raise ModalityError(
                f"source 'folder' holds pictures or sounds; the modalities are {dict(self.kinds)}. "
                "Expected one of kind 'image' or 'audio'."
            )
        for pattern, name in self.splits.items():
            if name not in SPLITS:
                raise DataError(f"splits: {UnknownNameError('split', str(name), SPLITS)} It is given for {pattern!r}.")
        path = existing(self.path, _EXPECTED)
        base = Path(self.base or path)
        by_split = split_folders(path)
        if by_split and self.splits:
            raise DataError(f"{path} has the split folder {next(iter(by_split)).name!r}; leave options.splits out.")
        whole: dict[Path, str | None] = {path: None}
        for folder, split in (by_split or whole).items():
            for label in _class_folders(folder):
                for file in _files(label):
                    yield self._row(file, label.name, split or self._split(file.name), base)

    def _row(self, file: Path, label: str, split: str | None, base: Path) -> Row | Rejection:
        name = name_below(file, base)
        medium = MEDIA.get(file.suffix.lower())
        if self.splits and split is None:
            return Rejection(name, "no split", f"no pattern of {', '.join(self.splits)} fits")
        if medium is None:
            return Rejection(name, "not a picture or sound", f"extension {file.suffix!r}")
        if medium not in self.kinds.values():
            return Rejection(name, f"no modality of kind {medium!r}")
        cells: dict[str, list[Item]] = {}
        try:
            for modality, kind in self.kinds.items():
                if kind == medium:
                    cells[modality] = [file_item(file, base)]
                elif kind == "text":
                    cells[modality] = [text_item(self.template.replace("{}", readable_class(label)), label)]
        except ItemError as error:
            return Rejection(name, error.reason, error.detail)
        return Row(name, cells, split)

    def _split(self, name: str) -> str | None:
        return next((SPLITS[split] for pattern, split in self.splits.items() if fnmatchcase(name, pattern)), None)


def split_folders(path: str | Path) -> dict[Path, str]:
    """Return the folders in `path` that are named for a split, by name, and their splits.

    Raises:
        DataError: there is no such folder.
    """
    folders = _folders(existing(path, _EXPECTED))
    return {folder: SPLITS[folder.name.lower()] for folder in folders if folder.name.lower() in SPLITS}


def class_folder(path: str | Path, files: str = "*") -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the classes that have pictures or sounds, sorted, and every file with the number of its class.

    Args:
        path: the folder.
        files: pattern of file names.

    Raises:
        DataError: fewer than two classes have files.
    """
    path = existing(path, _EXPECTED)
    by_class = {
        label.name: [file for file in _files(label) if file.suffix.lower() in MEDIA and fnmatchcase(file.name, files)]
        for label in _class_folders(path)
    }
    names = [name for name, members in by_class.items() if members]
    if len(names) < 2:
        named = "" if files == "*" else f" that fit {files!r}"
        raise DataError(
            f"{path}: found files{named} in {len(names)} of the folders {some(list(by_class))}; expected at least two "
            "classes."
        )
    return names, [(file, number) for number, name in enumerate(names) for file in by_class[name]]


def readable_class(name: str) -> str:
    """Return a folder's name as readable words.

    >>> [readable_class(name) for name in ("fire_truck", "GoldenRetriever", "n02084071-dog", "7", "USA")]
    ['fire truck', 'golden retriever', 'dog', '7', 'usa']
    """
    words = [word for word in _WORD_ENDS.split(_SYNSET.sub("", name)) if word]
    return " ".join(words).lower() or name


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path} is a file. Expected {_EXPECTED}.")
    return [entry for entry in visible(path) if entry.is_dir()]


def _class_folders(path: Path) -> list[Path]:
    folders = _folders(path)
    if not folders:
        inside = [entry.name for entry in visible(path)]
        raise DataError(f"{path} has no class folders: found {some(inside)}. Expected {_EXPECTED}.")
    return folders


def _files(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.is_file()]
