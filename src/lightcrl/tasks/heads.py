"""The heads of a model that tasks and raw items use, by name or by kind."""

from __future__ import annotations

from typing import TypeVar

from lightcrl.checkpoint import Checkpoint
from lightcrl.errors import HeadError
from lightcrl.heads import Head

H = TypeVar("H", bound=Head)


def head_names(checkpoint: Checkpoint, kind: str) -> list[str]:
    """Return the names of a model's heads of a kind."""
    return [name for name, head in checkpoint.heads.items() if head.kind == kind]


def load_head(checkpoint: Checkpoint, kind: str, expected: type[H], noun: str, name: str | None = None) -> H:
    """Return a head in eval mode: by default the one with the name of its kind, or the only one of this kind.

    Args:
        checkpoint: the model.
        kind: member of `HEADS`.
        expected: class of the head.
        noun: name of such a head in messages.
        name: name of the head.

    Raises:
        HeadError: there is none, or there are several, or the head called `name` is another kind of head.
    """
    names = head_names(checkpoint, kind)
    if name is None and kind in names:
        name = kind
    if name is None and len(names) != 1:
        several = f"has the {noun}s {', '.join(names)}; name one of them" if names else f"has no {noun}; train one"
        raise HeadError(f"the model {several}: lightcrl head MODEL RECIPE.toml with [heads.{kind}] trains one.")
    head = checkpoint.head(name or names[0])
    if not isinstance(head, expected):
        raise HeadError(f"head {name!r} is {type(head).__name__}; expected a {noun} ({', '.join(names) or 'none'}).")
    return head
