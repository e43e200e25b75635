"""The interface of a prior's models: tokens and embeddings of items in, targets of another modality out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from lightcrl.registry import Table
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.prior.head import PriorOptions

MODELS: Table[type[PriorModel]] = Table(
    "model of a prior",
    {
        "ridge": "lightcrl.heads.prior.regression:Ridge",
        "mlp": "lightcrl.heads.prior.regression:Mlp",
        "flow": "lightcrl.heads.prior.flow:Flow",
    },
)

Batches = Callable[[], Iterable[tuple[TokenBatch, Tensor, Tensor]]]
"""A function that yields tokens [B, T, D], embeddings [B, d] and targets [B, out] of all pairs of a split."""


class PriorModel(nn.Module, ABC):
    """A map from items to targets of zero mean and unit variance.

    Attributes:
        closed_form: true if `learn` determines everything, so that there are no steps.
        guided: true if guidance changes what is made.
    """

    closed_form: ClassVar[bool] = False
    guided: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, spec: TokenSpec, dim: int, out: int, options: PriorOptions) -> None:
        """Make a model for items with tokens of shape `spec`, embeddings of width `dim`, and targets of width `out`."""
        super().__init__()

    @abstractmethod
    def fit(self, tokens: TokenBatch) -> None:
        """Set statistics of features from a sample of the training split."""

    def learn(self, train: Batches, dev: Batches) -> None:
        """Receive all pairs before the first step."""

    @abstractmethod
    def loss(self, tokens: TokenBatch, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar to minimise, for targets [B, out]."""

    @abstractmethod
    def generate(self, tokens: TokenBatch, embeddings: Tensor, noise: Tensor, guidance: float, steps: int) -> Tensor:
        """Return targets [B, K, out] from noise [B, K, out]; models without randomness return K equal ones."""
