"""The `[evaluation]` table of a recipe: what every model of a run is measured on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.methods.spec import method_class


class ZeroShotSpec(BaseModel):
    """The `[evaluation.zero_shot]` table: a folder of class folders to classify without training on it.

    Attributes:
        data: the folder.
        files: pattern of the names of files to take, such as those of a fold that training never saw.
        templates: prompts with `{}` where the class name goes, averaged.
        modality: whose items the folder holds; by default the first that is not text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    files: str = "*"
    templates: tuple[str, ...] | None = None
    modality: str | None = None


class TextSimilaritySpec(BaseModel):
    """The `[evaluation.text_similarity]` table: pairs of texts with labels or scores, as `lightcrl.data.pairs` reads.

    Attributes:
        data: a table, or the id of a data set on the hub.
        calibration: labelled pairs that thresholds are calibrated on; by default the train split of `data`.
        columns: `text1`, `text2`, `label` or `score` to the column's name, where that differs.
        watch: measure labelled pairs at every evaluation on dev too, which sends all texts through the method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    calibration: str | None = None
    columns: dict[str, str] = {}
    watch: bool = True


class EvaluationSpec(BaseModel):
    """The `[evaluation]` table.

    Attributes:
        split: whose figures the table shows; `dev` also chooses the best checkpoint.
        baselines: methods trained beside it, on the same features with the same training settings.
        seeds: seeds that everything is trained with; the checkpoint kept as the run's own is that of the first.
        zero_shot: classify pictures or sounds that training never saw.
        text_similarity: tell similar pairs of texts from dissimilar ones, during training and at its end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["dev", "test"] = "dev"
    baselines: tuple[str, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    zero_shot: ZeroShotSpec | None = None
    text_similarity: TextSimilaritySpec | None = None

    @model_validator(mode="after")
    def _check(self) -> EvaluationSpec:
        for name in self.baselines:
            method_class(name)
        return self
