"""Datasets: the user's data as a table of groups."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightcrl.data.base import Dataset, Item, Rejection, Row, Source
from lightcrl.data.groups import collect
from lightcrl.data.joins import open_joins
from lightcrl.data.spec import DataSpec
from lightcrl.errors import DataError, EmptyDatasetError, ModalityError, UnknownNameError
from lightcrl.registry import Table

__all__ = ["SOURCES", "DataSpec", "Dataset", "Item", "Rejection", "Row", "Source", "load_dataset", "open_sources"]

SOURCES: Table[Callable[..., Source]] = Table(
    "source",
    {
        "table": "lightcrl.data.table:TableFile",
        "folder": "lightcrl.data.folder:ClassFolder",
        "hub": "lightcrl.data.hub:HubDataset",
        "webdataset": "lightcrl.data.webdataset:Shards",
        "vectors": "lightcrl.data.arrays:AlignedArrays",
        "synthetic": "lightcrl.data.synthetic:Synthetic",
    },
)


def load_dataset(spec: DataSpec, kinds: Mapping[str, str]) -> Dataset:
    """Read the data that `spec` describes.

    Args:
        spec: the `[data]` table; its paths are absolute, or hub ids.
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality, from the recipe's encoders.

    Raises:
        DataError: the data is absent or unusable; see `collect` for the rest.
        ModalityError: `columns` names an unknown modality, or the data lacks a modality's column.
        UnknownNameError: there is no such source, or the source has no such setting.
    """
    joins = open_joins(spec, kinds)
    sources = open_sources(joins.spec, joins.kinds)
    fractions = {"dev": spec.dev_fraction, "test": spec.test_fraction}
    try:
        return collect(
            joins.rows(_rows(sources)), kinds, fractions=fractions, strict=spec.strict, max_rejected=spec.max_rejected
        )
    except EmptyDatasetError as error:
        raise EmptyDatasetError(f"{', '.join(spec.paths.values()) or spec.source}: {error}") from None


def open_sources(spec: DataSpec, kinds: Mapping[str, str]) -> list[tuple[str | None, Source]]:
    """Return the sources of a spec, each with the split of all its rows, or None if the rows contain their splits.

    A source is constructed with `kinds`, with those of `path`, `columns`, `key`, `split_column`, `root` and `encoding`
    that are given, and with `options`; a setting without a parameter in its class is an error. A class with a parameter
    `base` receives the common folder of several paths, so that it can distinguish their files; a class with `one_split`
    receives true if the path is a split.
    """
    for modality in spec.columns:
        if modality not in kinds:
            raise ModalityError(f"data.columns: {UnknownNameError('modality', modality, kinds)}")
    make = SOURCES.load(spec.source)
    # Of a function only what it gives can be asked.
    if inspect.isbuiltin(make) or (isinstance(make, type) and not callable(getattr(make, "rows", None))):
        raise DataError(
            f"source {spec.source!r} is {make!r}; expected a class with rows(), or a function that makes one."
        )
    parameters = inspect.signature(make).parameters
    given = {name: getattr(spec, name) for name in ("columns", "key", "split_column", "root", "encoding")}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value} | spec.options
    paths: Mapping[str | None, str | None] = spec.paths or {None: None}
    if len(spec.paths) > 1 and "base" in parameters and all(map(os.path.isabs, spec.paths.values())):
        arguments.setdefault("base", os.path.commonpath([Path(path).parent for path in spec.paths.values()]))
    if "one_split" in parameters and None not in paths:
        arguments.setdefault("one_split", True)
    opened = []
    for split, path in paths.items():
        wanted = arguments if path is None else {"path": path, **arguments}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            for name in wanted:
                if name not in parameters:
                    allowed = [allowed for allowed in parameters if allowed != "kinds"]
                    raise UnknownNameError(f"setting of source {spec.source!r}", name, allowed)
        try:
            inspect.signature(make).bind(kinds, **wanted)
        except TypeError as error:
            raise DataError(
                f"source {spec.source!r}: {error}. Expected data.path, or data.train with data.dev and data.test; "
                "other settings stand under data.options."
            ) from None
        opened.append((split, make(kinds, **wanted)))
    return opened


def _rows(sources: list[tuple[str | None, Source]]) -> Iterator[Row | Rejection]:
    for split, source in sources:
        for row in source.rows():
            yield replace(row, split=split) if split and isinstance(row, Row) else row
