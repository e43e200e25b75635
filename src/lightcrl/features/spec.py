"""The `[features]` table of a recipe: where features are kept, and who encodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightcrl.features.engines import ENGINES, Crew
from lightcrl.files.local import cache_folder


def default_features_folder() -> str:
    """`$LIGHTCRL_CACHE/features`, or `~/.cache/lightcrl/features`: stores are shared by all recipes."""
    return str(cache_folder() / "features")


class FeaturesSpec(BaseModel):
    """The `[features]` table.

    Attributes:
        folder: of all feature stores, a path or a URI of an object store (`s3://bucket/features`).
        dtype: of stored values.
        workers: threads that decode pictures and sounds, in every process that encodes.
        engine: a member of `ENGINES`: `"local"` encodes in this process, `"ray"` on the machines of a Ray cluster; or
            `"package.module:function"` for the user's own.
        actors: processes that encode at once, for engine `"ray"`; `"auto"` takes as many as there is room for.
        actor_cpus: cores of each, and threads of its arithmetic.
        actor_gpus: GPUs of each; below 1, several share one. With 0 they encode on the CPU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(default_factory=default_features_folder)
    dtype: Literal["float16", "float32"] = "float16"
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
        """Who encodes, where the engine is not the local one."""
        return Crew(self.actors, self.actor_cpus, self.actor_gpus)
