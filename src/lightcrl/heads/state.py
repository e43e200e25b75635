"""A trained head as it is kept in a checkpoint: its settings, and tensors that are read when the head is used.

So a checkpoint with heads loads wherever only its space is needed, even without the files or the class of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from lightcrl.encoders.base import fingerprint
from lightcrl.errors import CheckpointError, HeadError
from lightcrl.heads.base import Head, Space
from lightcrl.heads.spec import make_head
from lightcrl.leaves import describe, read_tensors, take_sizes

FILE = "head-{}.safetensors"


@dataclass(frozen=True)
class TrainedHead:
    """A head in a checkpoint.

    Attributes:
        kind: a member of `HEADS`, or `"package.module:Class"`.
        options: the head's options as JSON values.
        space: digest of the checkpoint whose space the head was trained on.
        modalities: modalities that the head reads.
        leaves: shape, dtype and digest by tensor.
        figures: figures of the training, such as those on dev.
        file: file of the tensors; None if they are in memory.
        tensors: tensors in memory, by leaf.
    """

    kind: str
    options: Mapping[str, Any]
    space: str
    modalities: tuple[str, ...]
    leaves: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, head: Head, kind: str, space: str, figures: Mapping[str, Any]) -> TrainedHead:
        """Return the state of a head; `space` is the digest of its checkpoint."""
        tensors = {leaf: tensor.detach().cpu().clone() for leaf, tensor in head.state_dict().items()}
        leaves = {leaf: describe(tensor) for leaf, tensor in tensors.items()}
        options = head.options.model_dump(mode="json")
        return cls(kind, options, space, head.modalities, leaves, dict(figures), None, tensors)

    @classmethod
    def read(cls, name: str, entry: Mapping[str, Any], folder: Path) -> TrainedHead:
        """Return the head `name` of a checkpoint's folder from its entry in config.json.

        Raises:
            CheckpointError: the entry was changed by hand.
        """
        head = cls(
            entry["kind"],
            entry["options"],
            entry["space"],
            tuple(entry["modalities"]),
            entry["tensors"],
            entry["figures"],
            folder / FILE.format(name),
        )
        if (digest := head.digest) != entry["digest"]:
            raise CheckpointError(
                f"{folder}: head {name!r} has digest {digest}, expected {entry['digest']}: it was changed by hand."
            )
        return head

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(prod(leaf["shape"]) for leaf in self.leaves.values())

    @property
    def digest(self) -> str:
        """32 hex digits of all that determines the head's predictions, its space included."""
        return fingerprint([self.kind, dict(self.options), self.space, list(self.modalities), dict(self.leaves)])

    def entry(self) -> dict[str, Any]:
        """Return the head's entry in config.json."""
        return {
            "kind": self.kind,
            "options": dict(self.options),
            "space": self.space,
            "modalities": list(self.modalities),
            "tensors": dict(self.leaves),
            "figures": dict(self.figures),
            "digest": self.digest,
        }

    def state(self) -> dict[str, Tensor]:
        """Return all tensors.

        Raises:
            CheckpointError: the file is missing or torn, or a leaf is wrong.
        """
        return dict(self.tensors) if self.file is None else read_tensors(self.file, self.leaves)

    def bytes(self) -> bytes:
        """Return the content of the head's file."""
        return save(self.state(), metadata={"format": "pt"})

    def load(self, name: str, space: Space, digests: Iterable[str]) -> Head:
        """Return the head in eval mode.

        Args:
            name: name of the head in messages.
            space: shape of the space at hand.
            digests: digests of the checkpoints whose embeddings are those of the space at hand.

        Raises:
            HeadError: the head was trained on another space.
            CheckpointError: a tensor is wrong.
        """
        digests = tuple(digests)
        if self.space not in digests:
            raise HeadError(
                f"head {name!r} was trained on the space {self.space}, and this model's is {digests[0]}. Use it with "
                "its own model, or train it anew: lightcrl head MODEL RECIPE.toml."
            )
        head = make_head(self.kind, space, self.options)
        tensors = self.state()
        take_sizes(head, tensors)
        expected = {leaf: tensor.shape for leaf, tensor in head.state_dict().items()}
        if expected != {leaf: tensor.shape for leaf, tensor in tensors.items()}:
            raise CheckpointError(f"{self.file}: the tensors do not fit the head {self.kind!r} of this version.")
        head.load_state_dict(tensors)
        return head.eval()
