"""A recipe that extends a model: one TOML file, made of the tables that a run's recipe has.

name = "sounds"
partners = ["text"]         old modalities that the new one is trained with; by default all of the model's
[data]                      groups in which new and old items stand together    lightcrl.data.DataSpec
[encoders.audio]            one table per new modality                          lightcrl.encoders.EncoderSpec
[stores]                    old modalities as feature stores: modality = folder
[vectors.text]              old modalities as embeddings alone                  VectorsSpec
[features]                  where encoders' outputs are kept                    FeaturesSpec
[training]                  how                                                 TrainingSpec
[evaluation]                what is measured                                    MeasuredSpec
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.data import DataSpec
from lightcrl.encoders.base import EncoderSpec
from lightcrl.features.spec import FeaturesSpec
from lightcrl.recipe import read_table
from lightcrl.specs import parse
from lightcrl.training.spec import TrainingSpec


class VectorsSpec(BaseModel):
    """The `[vectors.<modality>]` table: an old modality of which only embeddings are at hand.

    Attributes:
        path: `.npy` [N, d], or Parquet with the columns `id` and `vector`.
        ids: of a `.npy`, JSON with a list of ids, or with one under the key `ids`; by default the file that
            `lightcrl embed` writes beside the vectors.
        column: of the data, whose cells are ids; by default that of the modality.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    ids: str | None = None
    column: str | None = None


class MeasuredSpec(BaseModel):
    """The `[evaluation]` table of a recipe that extends.

    Attributes:
        split: whose figures are shown; `dev` also chooses the best checkpoint.
        others: old modalities that the data has and training does not see: how well do they and the new one meet?
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["dev", "test"] = "dev"
    others: tuple[str, ...] = ()


class GrowthRecipe(BaseModel):
    """What a model is extended with, and how.

    Attributes:
        name: of the extension.
        output: folder of the extended model; `runs/<name>` where you are, unless given.
        seed: of fresh weights, batches and dropout.
        partners: old modalities that the new ones are trained with; all of the model's by default. A modality that is
            given another encoder stands for its old embeddings of the same items; by default these are only measured.
        data: groups in which new and old items stand together.
        encoders: those of the new modalities.
        stores: old modalities that come as finished feature stores: their folders.
        vectors: old modalities that come as embeddings.
        weights: in the loss, of pairs with an old modality; 1 where none is given.
        features: where encoders' outputs are kept.
        training: how.
        evaluation: what is measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    output: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    partners: tuple[str, ...] | None = Field(default=None, min_length=1)
    data: DataSpec
    encoders: dict[str, EncoderSpec] = Field(min_length=1)
    stores: dict[str, str] = {}
    vectors: dict[str, VectorsSpec] = {}
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    features: FeaturesSpec = Field(default_factory=FeaturesSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    evaluation: MeasuredSpec = Field(default_factory=MeasuredSpec)

    @model_validator(mode="after")
    def _check(self) -> GrowthRecipe:
        if both := sorted(self.stores.keys() & self.vectors.keys()):
            raise ValueError(f"{', '.join(both)} under [stores] and [vectors]; expected one of the two")
        if both := sorted(set(self.partners or ()) & set(self.evaluation.others)):
            raise ValueError(
                f"{', '.join(both)} among partners and evaluation.others; expected what is trained with, or measured"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the extended model lives."""
        return Path(self.output) if self.output else Path("runs") / self.name


def load_growth_recipe(
    path: Path | str, overrides: Iterable[str] = (), output: Path | str | None = None
) -> GrowthRecipe:
    """Read the file of a recipe that extends, with `section.key=value` on top.

    Raises:
        RecipeError: as `load_recipe`.
    """
    recipe: GrowthRecipe = parse(GrowthRecipe, read_table(path, overrides, output))
    return recipe
