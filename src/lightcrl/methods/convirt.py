"""ConVIRT (arXiv 2010.00747): two-layer projection heads and an asymmetric loss, the LightCRL paper's baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lightcrl.errors import TrainingError
from lightcrl.losses import Loss, info_nce
from lightcrl.methods.base import Step
from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.heads import Headed
from lightcrl.methods.stems import MethodOptions


class ConVIRTOptions(MethodOptions):
    """Options of ConVIRT. Two layers need less input dropout than one (docs/LOG.md).

    Attributes:
        loss_weight: lambda, the weight of the direction from the first modality (in alphabetical order, so the image of
            image and text) to the second; the other direction has weight 1 - lambda.
        temperature: fixed temperature of the softmax; null learns the logit scale, as in other methods.
    """

    input_dropout: DroppedShare = 0.2
    loss_weight: float = Field(default=0.75, ge=0, le=1)
    temperature: float | None = Field(default=0.1, gt=0.01)


class ConVIRT(Headed):
    """e = normalize(W2 relu(W1 x)) (section 3.2) under lambda l(v -> u) + (1 - lambda) l(u -> v) (equation 4).

    The paper trains both towers on radiographs and their reports; here they are frozen, so its figures are not
    comparable. With more than two modalities the loss is the mean over their pairs.
    """

    Options: ClassVar[type[MethodOptions]] = ConVIRTOptions
    suits: ClassVar[Mapping[str, Any]] = {"label_smoothing": 0.0}
    # The published settings; without and with more input dropout; the loss of the other methods.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": "auto"},
        {"loss_weight": 0.5, "temperature": None},
    )
    options: ConVIRTOptions

    def make_head(self, modality: str) -> nn.Module:
        """Return the second layer, [B, d] -> [B, d]."""
        return nn.Sequential(nn.ReLU(), nn.Linear(self.options.dim, self.options.dim))

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set the initial logit scale and bias; a fixed temperature is not changed."""
        super().start_logits(scale, bias)
        if self.options.temperature is not None:
            self.fix_scale(self.options.temperature)

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the loss with weighted directions.

        Raises:
            TrainingError: the loss is not InfoNCE, the only loss with two directions.
        """
        if self.options.loss_weight != 0.5:
            if getattr(loss, "func", loss) is not info_nce:  # a partial binds the smoothing
                raise TrainingError(
                    f"method.loss_weight is {self.options.loss_weight}, but the loss has no directions to weight. Use "
                    'training.loss = "info_nce", or method.loss_weight = 0.5.'
                )
            directed: Callable[..., Tensor] = loss
            loss = partial(directed, left_share=self.options.loss_weight)
        return super().objective(loss, embeddings, step)
