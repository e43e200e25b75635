"""Impossible extensions: one table, checked before any data is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightcrl.errors import GrowthError
from lightcrl.methods import Method
from lightcrl.methods.sharelock import ShareLock


def check_apart(model: Path | str, folder: Path) -> None:
    """Refuse to write into the model's own folder.

    Raises:
        GrowthError: `folder` is the model's folder or the one above it.
    """
    place = Path(model)
    if place.is_dir() and folder.resolve() in (place.resolve(), *place.resolve().parents[:1]):
        raise GrowthError(f"--output {folder} is the model's own folder, which stays as it is. Choose another.")


@dataclass(frozen=True)
class Growth:
    """Properties of an extension that decide on its refusal.

    Attributes:
        method: method of the model.
        fresh: modalities that are added, or whose encoder is replaced.
        replaced: modality whose encoder is replaced; None if modalities are added or removed.
        partners: old modalities in the training or the evaluation.
        given: old modalities with stores, vectors or weights in the recipe.
        removed: modality to remove.
        tuned: modalities with a `tuning` table in the recipe.
    """

    method: Method
    fresh: tuple[str, ...] = ()
    replaced: str | None = None
    partners: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    removed: str | None = None
    tuned: tuple[str, ...] = ()

    @property
    def known(self) -> Mapping[str, object]:
        """Fields of the messages in `REFUSALS`."""
        have = self.method.modalities
        return {
            "method": type(self.method).__name__,
            "reason": self.method.rigid,
            "have": ", ".join(sorted(have)),
            "replaced": self.replaced,
            "removed": self.removed,
            "fresh": ", ".join(self.fresh),
            "taken": ", ".join(name for name in self.fresh if name in have and name != self.replaced),
            "strange": ", ".join(sorted({*self.partners, *self.given} - have.keys())),
            "idle": ", ".join(sorted(set(self.given) - set(self.partners))),
            "tuned": ", ".join(self.tuned),
        }


@dataclass(frozen=True)
class Refusal:
    """A row of the table of impossible extensions.

    Attributes:
        what: description of the extension in tables.
        when: predicate that is true for an extension of this kind.
        message: error message with the fields of `Growth.known`.
    """

    what: str
    when: Callable[[Growth], bool]
    message: str


REFUSALS = (
    Refusal(
        "a method whose weights belong to no single modality",
        lambda given: bool(given.fresh and given.method.rigid),
        "{method} cannot be extended: {reason}. Train a model of another method, or this one anew with all modalities.",
    ),
    Refusal(
        "another encoder for the locked modality of ShareLock",
        lambda given: isinstance(given.method, ShareLock) and given.replaced == given.method.locked,
        "{replaced!r} is the locked modality, whose features are the embeddings; another encoder would change them. "
        "Replace another modality, or train anew.",
    ),
    Refusal(
        "a modality to replace that the model lacks",
        lambda given: given.replaced is not None and given.replaced not in given.method.modalities,
        "--replace {replaced!r}, but the model has {have}. Name one of these, or leave --replace out to add one.",
    ),
    Refusal(
        "a modality to replace without its new encoder, or with others beside it",
        lambda given: given.replaced is not None and given.fresh != (given.replaced,),
        "--replace {replaced!r}, but the recipe has encoders for {fresh}. Expected [encoders.{replaced}] alone.",
    ),
    Refusal(
        "a new modality of a name that the model has",
        lambda given: any(name in given.method.modalities and name != given.replaced for name in given.fresh),
        "the model has {taken} already. Give the new modality another name, or replace the encoder with --replace; the "
        "checkpoint has the encoders of old modalities, so the recipe leaves them out.",
    ),
    Refusal(
        "old modalities that the model lacks",
        lambda given: bool({*given.partners, *given.given} - given.method.modalities.keys()),
        "no modality {strange} in this model; it has {have}. Expected partners, evaluation.others, stores, "
        "vectors and weights to name these.",
    ),
    Refusal(
        "stores, vectors or weights of a modality that takes no part",
        lambda given: bool(set(given.given) - set(given.partners)),
        "stores, vectors or weights of {idle}, which is neither among partners nor in evaluation.others. Name it "
        "there, or leave them out.",
    ),
    Refusal(
        "a tuning table of an old modality",
        lambda given: bool(set(given.tuned) - set(given.fresh)),
        "[tuning] of {tuned}, but an extension leaves every old embedding as it is. Leave the table out; --replace "
        "gives a modality another encoder.",
    ),
    Refusal(
        "a tuning table of a new modality",
        lambda given: bool(given.tuned),
        "[tuning] of {tuned}, but an extension trains stem, pool and context alone; its encoders stay frozen. Leave "
        "the table out, or name the folder of an encoder that was tuned before.",
    ),
    Refusal(
        "a modality to remove that the model lacks",
        lambda given: given.removed is not None and given.removed not in given.method.modalities,
        "--remove {removed!r}, but the model has {have}. Name one of these.",
    ),
    Refusal(
        "removing all but one modality",
        lambda given: given.removed is not None and len(given.method.modalities) <= 2,
        "the model has {have} alone; expected two modalities or more to remain.",
    ),
    Refusal(
        "removing the locked modality of ShareLock",
        lambda given: isinstance(given.method, ShareLock) and given.removed == given.method.locked,
        "{removed!r} is the locked modality, which the embeddings are computed from. Remove another.",
    ),
)


def check_growth(given: Growth) -> None:
    """Refuse an impossible extension.

    Raises:
        GrowthError: the extension is in `REFUSALS`.
    """
    for refusal in REFUSALS:
        if refusal.when(given):
            raise GrowthError(refusal.message.format(**given.known))
