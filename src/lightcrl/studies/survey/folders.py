"""Looks at folders: a function for each shape, which returns None for any other."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from lightcrl.data.arrays import find_tables
from lightcrl.data.files import MEDIA, SPLITS, some, visible
from lightcrl.data.folder import readable_class, split_folders
from lightcrl.data.hub import open_hub
from lightcrl.data.table import is_table_file
from lightcrl.data.vectors import open_array
from lightcrl.errors import DataError, LightCRLError
from lightcrl.studies.survey.columns import PLURALS, Column
from lightcrl.studies.survey.tables import Survey, of_tables, read_cells, read_columns, table_sets


def of_hub(folder: Path, root: Path | None = None) -> Survey | None:
    """Look at a data set of the hub: saved to disk, or Parquet files with the splits in their names."""
    saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    if not saved and not any(folder.rglob("*-of-*.parquet")):
        return None
    parts = open_hub(folder)
    rows: list[dict[str, Any]] = []
    for part in parts.values():
        head = part.select(range(min(len(part), 2_000))).with_format("arrow")
        rows += [row for batch in head.iter(256) for row in batch.to_pylist()]
    columns = read_columns(rows)
    splits = {SPLITS[name]: len(part) for name, part in parts.items() if name in SPLITS and len(parts) > 1}
    if len(parts) > 1 and "dev" not in splits:
        raise DataError(
            f"{folder} has the splits {', '.join(parts)}, and none of them is dev (or validation), which chooses the "
            "best checkpoint. Expected three splits or one: train_test_split(0.1) of datasets makes another of train."
        )
    count, title = sum(map(len, parts.values())), "data set of Hugging Face datasets"
    return Survey(folder, "hub", title, {"path": str(folder)}, columns, count, splits, folder)


def of_shards(path: Path, root: Path | None = None) -> Survey | None:
    """Look at WebDataset shards: a tar file, or a folder of them."""
    shards = [path] if path.is_file() else [entry for entry in visible(path) if entry.suffix == ".tar"]
    if not shards:
        return None
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(shards[0]) as tar:
        for member in islice((member for member in tar if member.isreg()), 4_000):
            stem, _, extension = member.name.rpartition("/")[2].partition(".")
            file = tar.extractfile(member)
            data = file.read() if file else b""
            cells = samples.setdefault(f"{member.name.rpartition('/')[0]}/{stem}", {})
            if extension.lower() == "json":
                cells |= {f"json:{key}": value for key, value in _json_object(data).items()}
            elif extension.lower() in ("txt", "text", "caption", "cls"):
                cells[extension.lower()] = data.decode("utf-8", "replace").strip()
            else:
                cells[extension.lower()] = data
    columns = read_columns(list(samples.values()))
    title = f"{len(shards)} shards of WebDataset, {len(samples):,} samples in the first"
    return Survey(path, "webdataset", title, {"path": str(path)}, columns, len(samples))


def _json_object(data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def of_arrays(folder: Path, root: Path | None = None) -> Survey | None:
    """Look at arrays whose rows belong together: the layout of clip-retrieval and embedding-reader."""
    arrays: dict[str, list[Path]] = {
        entry.name: sorted(entry.rglob("*.npy")) for entry in visible(folder) if entry.is_dir()
    }
    arrays |= {entry.name: [entry] for entry in visible(folder) if entry.suffix == ".npy"}
    arrays = {name: files for name, files in arrays.items() if files}
    try:
        shapes = {name: [open_array(file).shape for file in files] for name, files in arrays.items()}
    except DataError:  # one vector per file: items beside other files
        return None
    counts = {name: sum(shape[0] for shape in each) for name, each in shapes.items()}
    if not counts or len(set(counts.values())) > 1 or min(counts.values()) < 2:
        return None
    columns = [
        Column(
            name, "vectors", example=f"{counts[name]:,} rows of {list(shapes[name][0][1:])}", words=shapes[name][0][-1]
        )
        for name in arrays
    ]
    rows = [row for table in find_tables(folder) for row in read_cells(table)[0]]
    columns += [_present(column, folder) for column in read_columns(rows)]
    settings: dict[str, Any] = {"path": str(folder)}
    return Survey(
        folder, "vectors", "arrays of vectors, row by row", settings, tuple(columns), next(iter(counts.values()))
    )


def _present(column: Column, folder: Path) -> Column:
    """Return a column whose files are not there as one of ids: the vectors are all that was kept of them."""
    missing = column.content in ("image", "audio") and column.paths
    return replace(column, content="id") if missing and not (folder / column.paths[0]).is_file() else column


def of_table_folder(folder: Path, root: Path | None = None) -> Survey | None:
    """Look at the tables of a folder, or of its folder of annotations; one of them must have pairs."""
    inside = [folder, *(folder / name for name in ("annotations", "metadata", "captions", "data"))]
    files = next((tables for place in inside if place.is_dir() and (tables := _tables_in(place))), [])
    if not files:
        return None
    surveys, reasons = {}, []
    for name, members in table_sets(files).items():
        try:
            surveys[name] = of_tables(members, root)
        except LightCRLError as error:
            reasons.append(f"{name}: {error}")
    if not surveys:
        raise DataError(f"no table in {folder} can be read. {reasons[0]}")
    pairs = {name: survey for name, survey in surveys.items() if len(survey.usable) > 1} or surveys
    if len(pairs) > 1:
        raise DataError(
            f"{folder} has several tables: {some(list(pairs))}. Expected one, or one per split: give its file, "
            f"lightcrl init {next(iter(next(iter(pairs.values())).settings.values()))}."
        )
    return next(iter(pairs.values()))


def _tables_in(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if is_table_file(entry)]


def of_class_folders(folder: Path, root: Path | None = None) -> Survey | None:
    """Look at pictures or sounds in a folder per class, at the top or in a folder per split."""
    parts: Mapping[Path, str | None] = split_folders(folder) or {folder: None}
    media: Counter[str] = Counter()
    classes: dict[str, int] = {}
    samples: list[str] = []
    for part in parts:
        for label in (entry for entry in visible(part) if entry.is_dir()):
            files = [entry for entry in visible(label) if entry.suffix.lower() in MEDIA]
            if any(entry.is_dir() for entry in visible(label)):
                return None
            media.update(MEDIA[file.suffix.lower()] for file in files)
            classes[label.name] = classes.get(label.name, 0) + len(files)
            samples += [str(file) for file in files[:: max(1, len(files) // 8)][:8]]
    if sum(count > 0 for count in classes.values()) < 2 or _sidecars(folder):
        return None
    kind = media.most_common(1)[0][0]
    split = {name: place for place, name in parts.items() if name}
    held_out = str(split["test"]) if "test" in split and "dev" not in split else None
    path = split["train"] if held_out and "train" in split else folder
    template = {"image": "a photo of a {}.", "audio": "the sound of a {}."}[kind]
    names = [readable_class(name) for name in classes]
    columns = (
        Column(
            kind,
            kind,
            distinct=sum(media.values()),
            sampled=sum(media.values()),
            samples=tuple(samples),
            example=samples[0],
        ),
        Column(
            "text", "text", distinct=len(names), sampled=sum(media.values()), words=2, example=template.format(names[0])
        ),
    )
    notes = [f"{len(classes)} classes, {some(names, 4)}; a caption is made from the class: {template}"]
    if held_out:
        notes.append(
            "there is no dev split: it is drawn from train; test is classified without training on it (zero-shot)"
        )
    settings: dict[str, Any] = {"path": str(path), "options": {"template": template}}
    return Survey(
        folder,
        "folder",
        f"class folders of {PLURALS[kind]}",
        settings,
        columns,
        sum(media.values()),
        notes=tuple(notes),
        held_out=held_out,
    )


def of_files(folder: Path, root: Path | None = None) -> Survey | None:
    """Look at files that share a name but for its ending, or that lie in nested folders; a table of them is made."""
    groups = _sidecars(folder)
    if groups:
        kinds = Counter(kind for members in groups.values() for kind in members)
        rows = [_with_text(members, folder) for members in groups.values() if len(members) > 1]
        title = f"files of one name: {', '.join(f'{count:,} {PLURALS[kind]}' for kind, count in kinds.items())}"
        return _made(folder, title, rows, ())
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in MEDIA and path.parent != folder]
    labels = Counter(path.parent.name for path in files)
    if len(labels) < 2 or len(files) < 2 * len(labels):
        return None
    rows = [
        {MEDIA[path.suffix.lower()]: path.relative_to(folder).as_posix(), "text": readable_class(path.parent.name)}
        for path in files
    ]
    note = f"the name of a file's folder is taken for its text: {some([readable_class(name) for name in labels], 5)}"
    return _made(folder, f"{len(files):,} files in nested folders", rows, (note,))


def _made(folder: Path, title: str, rows: Sequence[Mapping[str, Any]], notes: tuple[str, ...]) -> Survey:
    columns = tuple(replace(each, content="text") if each.name == "text" else each for each in read_columns(rows))
    settings: dict[str, Any] = {"root": str(folder)}
    return Survey(folder, "table", title, settings, columns, len(rows), {}, folder, notes, {None: rows})


def _sidecars(folder: Path) -> dict[str, dict[str, Path]]:
    """Return files of several kinds by their common name, if there are at least two such names."""
    kinds = {**MEDIA, ".txt": "text", ".caption": "text", ".npy": "vectors"}
    groups: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in kinds and path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            groups.setdefault(name, {}).setdefault(kinds[path.suffix.lower()], path)
    together = {name: members for name, members in groups.items() if len(members) > 1}
    return groups if len(together) >= max(2, 0.5 * len(groups)) else {}


def _with_text(members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {kind: path.relative_to(folder).as_posix() for kind, path in members.items()}
    if "text" in members:
        lines = members["text"].read_text(encoding="utf-8", errors="replace").splitlines()
        texts = [line.strip() for line in lines if line.strip()]
        row["text"] = texts if len(texts) > 1 else "".join(texts)
    return row
