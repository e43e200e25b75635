"""The `[data]` table of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class VectorsSpec(BaseModel):
    """A `vectors.<modality>` table: vectors with ids in a file of their own, which the data names by id.

    Attributes:
        path: file of the vectors: `.npy` [N, D] or [N, T, D], or Parquet with the columns `id` and `vector`. An
            extension also takes the folder of an index of the model, or of one that it was extended from.
        ids: file of the ids of a `.npy`, JSON with a list of ids, alone or under the key `ids`; by default the file
            that `lightcrl embed` writes beside the vectors.
        column: column of the data that holds ids; by default that of the modality.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    ids: str | None = None
    column: str | None = None


class DataSpec(BaseModel):
    """The source of the groups and their splits.

    Attributes:
        source: a member of `SOURCES`, or `"package.module:Class"` for the user's own.
        path: one file, folder, shard pattern or hub id. Its own splits are used (`split_column`, split folders, several
            hub splits); otherwise splits are drawn.
        train: path of the split, in place of `path`.
        dev: see `train`.
        test: see `train`.
        columns: column (or tar extension) by modality; by default a modality has the column of its own name.
        vectors: files of vectors with ids, by modality of kind `"vectors"`; the data then has ids in their place.
        key: column of the group's name; by default rows with the same first picture or sound are a group.
        split_column: column of the split.
        dev_fraction: share of the groups drawn into `dev`, if splits are drawn.
        test_fraction: share of the groups drawn into `test`, if splits are drawn.
        root: base folder of relative paths in the data; by default the data file's own.
        encoding: Python's name of the encoding of text files, such as `latin-1`; UTF-8 by default.
        strict: true to stop at the first unreadable item.
        max_rejected: greatest share of items that may be set aside.
        options: further keyword arguments of the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "table"
    path: str | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    columns: dict[str, str] = {}
    vectors: dict[str, VectorsSpec] = Field(default={}, exclude_if=lambda files: not files)
    key: str | None = None
    split_column: str | None = None
    dev_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    root: str | None = None
    encoding: str | None = None
    strict: bool = False
    max_rejected: float = Field(default=0.2, ge=0, le=1)
    options: dict[str, Any] = {}

    @property
    def paths(self) -> dict[str | None, str]:
        """Every given path by its split; None is the key of a path whose splits are its own or drawn."""
        given = {None: self.path, "train": self.train, "dev": self.dev, "test": self.test}
        return {split: path for split, path in given.items() if path is not None}

    @model_validator(mode="after")
    def _holds_together(self) -> DataSpec:
        named = [split for split in self.paths if split]
        if self.path is not None and named:
            raise ValueError(f"found path and {', '.join(named)}; expected either path, or one of these per split")
        if self.split_column and named:
            raise ValueError(f"found split_column and {', '.join(named)}; expected one of the two: both give splits")
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"dev_fraction {self.dev_fraction} and test_fraction {self.test_fraction} leave nothing to train on; "
                "expected a sum below 1"
            )
        return self
