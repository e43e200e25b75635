"""Heads on a trained model, from a recipe to a checkpoint: the space stays bit for bit.

The folder of a model with new heads:

recipe.json       the recipe with all defaults
heads/<name>/     best/, last/ and log.jsonl of the training of each head
heads/space-*/    the same of a second space, for groups that are set apart
best/             the model with its heads; `lightcrl.load` takes the folder
heads.json        figures of the heads, and the proof that the space is unchanged
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.data import DataSpec
from lightcrl.embedder import Embedder, load
from lightcrl.errors import HeadError
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import only_writer
from lightcrl.growth.proof import Proof, prove
from lightcrl.growth.spec import ChildRecipe
from lightcrl.heads.spec import HeadSpec, name_heads
from lightcrl.heads.state import TrainedHead
from lightcrl.specs import parse
from lightcrl.training.heads import head_features, head_training, train_head


class HeadRecipe(ChildRecipe):
    """The recipe of heads on a trained model.

    Attributes:
        data: groups; by default those that the model was trained on.
        features: folder of feature stores; by default the model's.
        heads: heads by name.
    """

    data: DataSpec | None = None
    features: FeaturesSpec | None = None
    heads: Annotated[dict[str, HeadSpec], BeforeValidator(name_heads)] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> HeadRecipe:
        for name, spec in self.heads.items():
            head_training(spec, name)
        return self


@dataclass(frozen=True)
class Headed:
    """A model with new heads.

    Attributes:
        folder: folder of the model; `lightcrl.load` takes it.
        heads: new heads by name.
        proof: proof that the weights and embeddings of the space are unchanged.
    """

    folder: Path
    heads: Mapping[str, TrainedHead]
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """Return the content of heads.json."""
        return {
            "heads": {
                name: {"kind": head.kind, "parameters": head.parameters, **head.figures}
                for name, head in self.heads.items()
            },
            "unchanged": self.proof.to_json(),
        }


def add_heads(
    model: Path | str,
    recipe: HeadRecipe | Path | str,
    *,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    encoders: Mapping[str, Path | str] | None = None,
    trust_remote_code: bool = False,
    tell: Tell = lambda event: None,
) -> Headed:
    """Train heads on the space of a model, and write the model with them into another folder; the space stays as it is.

    The same call resumes a stopped training. A head of a name that the model has already is replaced.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        recipe: recipe of the heads, or its file.
        overrides: changes of the file's keys, `section.key=value`.
        output: folder of the model with its heads, in place of the recipe's.
        encoders: current folders of the model's encoders by modality, where they differ from those in training.
        trust_remote_code: see `lightcrl.load`.
        tell: function that is called with events.

    Raises:
        GrowthError: `output` is the model's own folder.
        HeadError: the space or the data lack what a head needs.
        LockedError: another process writes into the folder.
        LightCRLError: the recipe, the data or the machine does not allow the training.
    """
    recipe = HeadRecipe.opened(recipe, model, overrides, output)
    embedder = load(model, device="cpu", encoders=encoders, trust_remote_code=trust_remote_code)
    with only_writer(recipe.folder, tell) as hold:
        return _add(model, embedder, recipe, hold.guard(tell))


def _add(model: Path | str, embedder: Embedder, recipe: HeadRecipe, tell: Tell) -> Headed:
    base, folder = embedder.checkpoint, make_folder(recipe.folder)
    data, storage = recipe.data or _own(base, "data", DataSpec), recipe.features or _own(base, "features", FeaturesSpec)
    settled = recipe.model_copy(update={"data": data, "features": storage})
    write_json(folder / "recipe.json", settled.model_dump(mode="json"))
    encoders = {name: embedder.encoder(name) for name in embedder.modalities}
    features = head_features(base, encoders, data, storage, tell)
    heads = {
        name: train_head(base, name, spec, features, folder / "heads" / name, tell)
        for name, spec in recipe.heads.items()
    }
    before = base.digest
    base.heads.update(heads)
    base.save(folder / "best")
    written = load_checkpoint(folder)
    proof = prove(load_checkpoint(model), written, ())
    if written.digest != before:
        raise HeadError(f"the model's digest is {written.digest}, and was {before}; expected an unchanged space.")
    done = Headed(folder, {name: written.heads[name] for name in heads}, proof)
    write_json(folder / "heads.json", done.to_json())
    return done


def _own(base: Checkpoint, table: str, kind: type[BaseModel]) -> Any:
    """Return a table of the recipe that the model was trained with.

    Raises:
        HeadError: the checkpoint has no such table.
    """
    if table not in base.recipe:
        raise HeadError(f"the model does not say its own [{table}]; give the table in the recipe of the heads.")
    return parse(kind, base.recipe[table], table)
