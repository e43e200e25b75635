"""Recipe of an extension: one TOML file with the tables of a run's recipe and some more.

name = "sounds"
partners = ["text"]         old modalities in the training; by default all but evaluation.others
[data]                      groups of new and old items                         lightcrl.data.DataSpec
[encoders.audio]            one table per new modality                          lightcrl.encoders.EncoderSpec
[stores]                    folders of feature stores of old modalities
[vectors.text]              embeddings of an old modality, also of an index     lightcrl.data.spec.VectorsSpec
[features]                  folder of features, and encoding processes          FeaturesSpec
[training]                  settings of the training                            TrainingSpec
[evaluation]                split and measured modalities                       MeasuredSpec
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.data import DataSpec
from lightcrl.data.spec import VectorsSpec
from lightcrl.encoders.base import EncoderSpec
from lightcrl.features.spec import FeaturesSpec
from lightcrl.growth.refusals import check_apart
from lightcrl.recipe import read_table
from lightcrl.specs import parse
from lightcrl.training.spec import TrainingSpec


class MeasuredSpec(BaseModel):
    """The `[evaluation]` table of the recipe of an extension.

    Attributes:
        split: split of the figures; `dev` chooses the best checkpoint in any case.
        others: old modalities in the data that are measured against the new one, but not trained with it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["dev", "test"] = "dev"
    others: tuple[str, ...] = ()


class ChildRecipe(BaseModel):
    """Common keys of the recipes that make a model from another one: an extension, or heads.

    Attributes:
        name: name of the model.
        output: folder of the model; by default `runs/<name>` in the working directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    output: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the model."""
        return Path(self.output) if self.output else Path("runs") / self.name

    @classmethod
    def opened(
        cls, recipe: Self | Path | str, model: Path | str, overrides: Iterable[str], output: Path | str | None
    ) -> Self:
        """Return a recipe or that of a file, with another `output` if one is given.

        Raises:
            RecipeError: see `load_recipe`.
            GrowthError: the output is the folder of `model`, which it is made of.
        """
        if not isinstance(recipe, cls):
            recipe = cls.read(recipe, overrides, output)  # type: ignore[arg-type]
        elif output is not None:
            recipe = recipe.model_copy(update={"output": str(output)})
        check_apart(model, recipe.folder)
        return recipe

    @classmethod
    def read(cls, path: Path | str, overrides: Iterable[str] = (), output: Path | str | None = None) -> Self:
        """Read a recipe from its file, with overrides `section.key=value`.

        Raises:
            RecipeError: see `load_recipe`.
        """
        recipe: Self = parse(cls, read_table(path, overrides, output))
        return recipe


class GrowthRecipe(ChildRecipe):
    """The recipe of an extension.

    Attributes:
        seed: seed of fresh weights, batches and dropout.
        partners: old modalities in the training; by default all that are not in `evaluation.others`. A modality whose
            encoder is replaced stands for its old embeddings of the same items; by default these are only measured if
            there are other partners.
        data: groups of new and old items.
        encoders: encoders of the new modalities.
        stores: folders of existing feature stores by old modality.
        vectors: files of embeddings by old modality.
        weights: weights in the loss of pairs with an old modality; by default 1.
        features: folder of feature stores, and encoding processes.
        training: settings of the training.
        evaluation: split and modalities of the evaluation.
        tuning: refused, since encoders of old modalities must not change, and those of new ones stay frozen too.
    """

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
    tuning: dict[str, dict[str, Any]] = Field(default={}, exclude=True)

    @model_validator(mode="after")
    def _check(self) -> GrowthRecipe:
        if both := sorted(self.stores.keys() & self.vectors.keys()):
            raise ValueError(f"{', '.join(both)} under [stores] and [vectors]; expected one of the two")
        if both := sorted(set(self.partners or ()) & set(self.evaluation.others)):
            raise ValueError(
                f"{', '.join(both)} among partners and evaluation.others; expected every modality in one of the two"
            )
        return self
