"""Texts to embeddings of pictures, and to pictures: a model's prior and decoder on raw prompts.

imaginer = Imaginer(lightcrl.load("runs/unclip_world"))
imaginer.imagine(["three blue stars on a grey ground"])[0][0].save("stars.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightcrl.data.base import Item
from lightcrl.embedder import Embedder
from lightcrl.errors import HeadError, ItemError, QueryError
from lightcrl.features import encode_items
from lightcrl.heads.drawing.head import Drawing
from lightcrl.heads.prior.head import Prior
from lightcrl.tasks.heads import head_names, load_head
from lightcrl.tokens import TokenBatch

PRIOR, DRAWING = "prior", "drawing"
PART = 64
"""Number of pictures that are drawn together."""


@final
class TextPrior:
    """A model's prior on raw prompts.

    Attributes:
        embedder: the model.
        head: the head.
    """

    def __init__(self, embedder: Embedder, head: str | None = None) -> None:
        """Take a prior of the model: by default the one called `prior`, or its only one.

        Raises:
            HeadError: the model has no prior, or several, or the head is no prior.
        """
        self.embedder = embedder
        self.head = load_head(embedder.checkpoint, PRIOR, Prior, "prior", head).to(embedder.device)

    @property
    def modalities(self) -> tuple[str, str]:
        """The modality of the prompts, and that of what is made of them."""
        return self.head.source, self.head.target

    def need_embeddings(self) -> None:
        """Return if the prior makes embeddings of the space.

        Raises:
            HeadError: it makes features of an encoder.
        """
        if self.head.options.slot is not None:
            raise HeadError(
                f"the prior makes slot {self.head.options.slot} of {self.head.target!r}; expected embeddings of the "
                "space. Name a prior without slot."
            )

    def vectors(self, prompts: Sequence[Any], **settings: Any) -> np.ndarray:
        """Return an embedding [N, d] for each prompt: unit vectors, or features in place of embeddings (`slot`).

        Args:
            prompts: texts, or raw items of the prior's modality.
            settings: `draws`, `guidance`, `steps` and `seed`; see `Prior.sample`.

        Raises:
            QueryError: a prompt is empty.
            ItemError: a prompt is unreadable; the message names it.
        """
        tokens, vectors = encode_prompts(self.embedder, prompts, self.head.source)
        return self.made(tokens, vectors, numbers=_numbers(prompts, 0), **settings).cpu().numpy()

    @torch.inference_mode()
    def made(self, tokens: TokenBatch, vectors: Tensor, **settings: Any) -> Tensor:
        """Return what the prior makes of encoded prompts; arguments are those of `Prior.generate`."""
        return self.head.generate(tokens, vectors, **settings)


@final
class Imaginer:
    """A model's decoder on raw prompts, through its prior if it has one.

    Attributes:
        embedder: the model.
        drawing: the decoder.
        prior: the prior; None draws from words alone.
    """

    def __init__(self, embedder: Embedder, drawing: str | None = None, prior: str | None = None) -> None:
        """Take a decoder and a prior of the model, by name or the only ones; without a prior, words alone are read.

        Raises:
            HeadError: the model has no decoder, or several, or the prior makes other embeddings than it reads.
        """
        self.embedder = embedder
        self.drawing = load_head(embedder.checkpoint, DRAWING, Drawing, "decoder", drawing).to(embedder.device)
        self.prior: TextPrior | None = None
        if prior is not None or head_names(embedder.checkpoint, PRIOR):
            self.prior = TextPrior(embedder, prior)
            self.prior.need_embeddings()
            if self.prior.modalities != self.drawing.modalities:
                raise HeadError(
                    f"the prior makes {' -> '.join(self.prior.modalities)}; expected "
                    f"{' -> '.join(self.drawing.modalities)}, which the decoder reads. Name another prior."
                )

    def imagine(
        self,
        prompts: Sequence[str],
        *,
        samples: int = 1,
        draws: int | None = None,
        guidance: float | None = None,
        prior_guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        words: bool = False,
    ) -> list[list[Image.Image]]:
        """Return pictures of each prompt, which depend on this prompt and the settings alone.

        Args:
            prompts: texts.
            samples: number of pictures of each.
            draws: number of pictures that are drawn for each one; the nearest to the prompt in the space is taken. By
                default the head's, as `guidance` and `steps`.
            guidance: strength of the decoder's guidance.
            prior_guidance: strength of the prior's guidance; by default the head's.
            steps: number of steps of a drawing.
            seed: seed of all noise.
            words: true to draw from words alone, without the prior.

        Raises:
            QueryError: a prompt is empty.
        """
        tokens, vectors = encode_prompts(self.embedder, prompts, self.drawing.source)
        draws = draws or self.drawing.options.draws
        each = samples * draws
        owners = torch.arange(len(prompts)).repeat_interleave(each)
        numbers = [number for prompt in prompts for draw in range(each) for number in _numbers([prompt], draw)]
        pictures: list[Image.Image] = []
        for start in range(0, len(owners), PART):
            chosen, some = owners[start : start + PART], numbers[start : start + PART]
            told, embeddings = tokens.rows(chosen), None
            if self.prior is not None and not words:
                embeddings = self.prior.made(told, vectors[chosen], numbers=some, guidance=prior_guidance, seed=seed)
            pixels = self.drawing.draw(told, embeddings, numbers=some, guidance=guidance, steps=steps, seed=seed)
            pictures += [Image.fromarray(picture) for picture in pixels]
        if draws > 1:
            shown = torch.from_numpy(self.embedder.encode(pictures, self.drawing.target)).to(vectors)
            nearest = (shown * vectors[owners]).sum(1).view(-1, draws).argmax(1).tolist()
            pictures = [pictures[place * draws + best] for place, best in enumerate(nearest)]
        return [pictures[start : start + samples] for start in range(0, len(pictures), samples)]


def encode_prompts(embedder: Embedder, prompts: Sequence[Any], modality: str) -> tuple[TokenBatch, Tensor]:
    """Return tokens [N, T, D] and embeddings [N, d] of prompts, on the embedder's device.

    Raises:
        QueryError: there is no prompt, or an empty one.
        ItemError: a prompt is unreadable; the message names it.
    """
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str) and not prompt.strip():
            raise QueryError(f"prompt {number + 1} is empty; expected a text, such as 'three blue stars'.")
    if not len(prompts):
        raise QueryError("no prompts; expected one or more texts, such as 'three blue stars'.")
    wrapped = [Item(str(number), f"prompt {number + 1}", prompt) for number, prompt in enumerate(prompts)]
    outcomes = dict(encode_items(embedder.encoder(modality), wrapped))
    for number, outcome in outcomes.items():
        if isinstance(outcome, ItemError):
            raise ItemError(f"prompt {number + 1}: {outcome.reason}", outcome.detail)
    sequences = [torch.from_numpy(outcomes[number]).float() for number in range(len(prompts))]
    tokens = TokenBatch.from_ragged(sequences).to(embedder.device)
    return tokens, torch.from_numpy(embedder.encode_tokens(tokens, modality)).to(embedder.device)


def _numbers(prompts: Sequence[Any], sample: int) -> list[int]:
    """Return numbers for the noise of prompts, by content: the same beside any other prompts."""
    return [int.from_bytes(blake2b(f"{sample} {prompt}".encode(), digest_size=8).digest(), "big") for prompt in prompts]
