"""The `[data]` table of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DataSpec(BaseModel):
    """Where the groups come from and how they are split.

    Attributes:
        source: a member of `SOURCES`, or `"package.module:Class"` for the user's own.
        path: one file, folder, shard pattern or hub id. Its splits are those that it gives (`split_column`, split
            folders, several hub splits); otherwise they are drawn.
        train: in place of `path`, one path per split.
        dev: see `train`.
        test: see `train`.
        columns: modality to column (or tar extension); by default a modality has the column of its own name.
        key: column whose equal values make rows one group; by default the first picture or sound does.
        split_column: column that names the split.
        dev_fraction: share of the groups drawn into `dev`, where splits are drawn.
        test_fraction: share of the groups drawn into `test`, where splits are drawn.
        root: folder that relative paths in the data are below; by default the data file's own.
        encoding: of text files, by Python's name, such as `latin-1`; UTF-8 by default.
        strict: stop at the first item that cannot be read.
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
        """Every path that is given, by its split; None stands for one whose splits are given within or drawn."""
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
