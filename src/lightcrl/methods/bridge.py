"""Plain maps of new modalities into a frozen space: the baselines of an extension (`lightcrl.studies.extensions`).

Nothing of the method that made the space is used: a new modality is one affine map of its slots to the whole embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lightcrl.losses import Loss
from lightcrl.methods.base import Method, Step
from lightcrl.methods.joining import Joining, JoiningOptions
from lightcrl.methods.solve import moments_towards, ridge, rotation, set_affine
from lightcrl.methods.stems import Inlet, MethodOptions, Stem
from lightcrl.tokens import TokenBatch, TokenSpec


class BridgeOptions(JoiningOptions):
    """Options of a map into a frozen space."""

    input_dropout: float = Field(default=0.2, ge=0, lt=1)


class LinearBridge(Joining):
    """e = normalize(W x + b), trained with the loss of the extension."""

    Options: ClassVar[type[MethodOptions]] = BridgeOptions
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"input_dropout": 0.0}, {"input_dropout": 0.5})
    rigid: ClassVar[str] = "it is a baseline of an extension"
    options: BridgeOptions

    def make_stem(self, modality: str) -> Inlet:
        """Return the map of a new modality; an old one has none."""
        options: Any = self.options
        return super().make_stem(modality) if modality in options.fresh else Inlet(TokenSpec(1), options)

    def embed_new(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return mapped vectors [B, d]."""
        return self.pooled(modality, tokens)

    def fit_new(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of a new modality's features."""
        Method.fit(self, modality, tokens)

    def align(self, loss: Loss, pair: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the loss over two modalities."""
        return Method.objective(self, loss, pair, step)

    def new_stems(self) -> dict[str, Stem]:
        """Return the maps of the new modalities."""
        return {name: stem for name in self.options.fresh if isinstance(stem := self.stem(name), Stem)}


class LeastSquaresOptions(BridgeOptions):
    """Options of least squares.

    Attributes:
        shrinkage: p of the ridge p / (1 - p) diag C; "auto" is F / (F + G) for F features and G groups, 0 the plain
            solution of least norm.
    """

    input_dropout: float = Field(default=0.0, ge=0, le=0)
    shrinkage: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"


class LeastSquares(LinearBridge):
    """The affine map with the least squared error to the embeddings in the same groups, with a ridge."""

    Options: ClassVar[type[MethodOptions]] = LeastSquaresOptions
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"shrinkage": 0.0}, {"shrinkage": 0.1}, {"shrinkage": 0.8})
    closed_form: ClassVar[bool] = True
    options: LeastSquaresOptions

    def solve(self, steps: Iterable[Step]) -> None:
        """Solve the maps from the training split.

        Raises:
            TrainingError: no item of a new modality shares a group with an embedding.
        """
        stems = self.new_stems()
        seen = moments_towards(stems, steps)
        for name, stem in stems.items():
            own, cross = seen.own[name], seen.cross[name]
            share = seen.share(stem, self.options.shrinkage)
            set_affine(stem, ridge(own.covariance, cross.covariance, share), own.mean, cross.right_mean)


class ProcrustesOptions(BridgeOptions):
    """Options of Procrustes."""

    input_dropout: float = Field(default=0.0, ge=0, le=0)


class Procrustes(LinearBridge):
    """The rotation of the features that aligns best with the embeddings in the same groups, around their means."""

    Options: ClassVar[type[MethodOptions]] = ProcrustesOptions
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    closed_form: ClassVar[bool] = True
    options: ProcrustesOptions

    def solve(self, steps: Iterable[Step]) -> None:
        """Solve the rotations from the training split; errors as in `LeastSquares.solve`."""
        stems = self.new_stems()
        seen = moments_towards(stems, steps)
        for name, stem in stems.items():
            own, cross = seen.own[name], seen.cross[name]
            turned = rotation(cross.covariance)
            # Of all multiples of the rotation, the one with the least squared error.
            spread = (turned.T @ own.covariance @ turned).trace()
            factor = (turned.T @ cross.covariance).trace() / spread.clamp(min=1e-12)
            set_affine(stem, factor * turned, own.mean, cross.right_mean)
