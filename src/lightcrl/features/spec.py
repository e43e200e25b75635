"""The `[features]` table of a recipe: the folder of the stores, and the encoding processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.features.engines import ENGINES, Crew
from lightcrl.files.local import cache_folder


def default_features_folder() -> str:
    """Return `$LIGHTCRL_CACHE/features`, or `~/.cache/lightcrl/features`: all recipes share their stores."""
    return str(cache_folder() / "features")


class FeaturesSpec(BaseModel):
    """The `[features]` table.

    Attributes:
        folder: folder of all feature stores, a path or a URI of an object store (`s3://bucket/features`).
        dtype: dtype of stored values; `"int8"` has a scale for every token (`packing`).
        workers: number of threads that decode pictures and sounds, in every encoding process.
        engine: a member of `ENGINES`: `"local"` encodes in this process, `"ray"` on the machines of a Ray cluster; or
            `"package.module:function"` for the user's own.
        actors: number of encoding processes, for engine `"ray"`; `"auto"` starts as many as fit.
        actor_cpus: cores of each actor, and threads of its arithmetic.
        actor_gpus: GPUs of each actor; below 1, several actors share a GPU. With 0 they encode on the CPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(default_factory=default_features_folder)
    dtype: Literal["float16", "float32", "int8"] = "float16"
    workers: int = Field(default=4, gt=0)
    engine: str = "local"
    actors: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    actor_cpus: int = Field(default=1, gt=0)
    actor_gpus: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> FeaturesSpec:
        if ":" not in self.engine:
            ENGINES[self.engine]
        if self.engine == "local" and self.crew != Crew():
            raise ValueError("actors, actor_cpus and actor_gpus are for engine = 'ray'")
        return self

    @property
    def crew(self) -> Crew:
        """The encoding processes of an engine other than the local one."""
        return Crew(self.actors, self.actor_cpus, self.actor_gpus)
