"""diffusers: pictures by its unCLIP pipelines, from the image features that a model's prior makes.

    lightcrl imagine runs/mine "two dogs in the snow" --pipeline stabilityai/stable-diffusion-2-1-unclip

Such a pipeline reads the projected features of one image encoder. A prior makes them if the space was trained on that
encoder and `[heads.prior]` names the slot of these features (`slot`).
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lightcrl.errors import BridgeError, MissingExtraError, first_line
from lightcrl.imaginer import TextPrior

INPUTS = ("image_embeds", "image_embeddings")
"""Names of the pipelines' argument for image features; the second is that of `UnCLIPImageVariationPipeline`."""


def load_pipeline(place: str) -> Any:
    """Return a pipeline of a folder or hub id.

    Raises:
        MissingExtraError: diffusers is not installed.
        BridgeError: there is no pipeline.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise MissingExtraError("a pipeline of diffusers", "generate") from error
    try:
        return DiffusionPipeline.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise BridgeError(
            f"no pipeline in {place!r}: {first_line(error)} Expected a folder with model_index.json, or a hub id."
        ) from error


def imagine(
    prior: TextPrior, pipeline: Any, prompts: Sequence[str], *, samples: int = 1, seed: int = 0, **settings: Any
) -> list[list[Image.Image]]:
    """Return pictures of each prompt by a pipeline of diffusers, from the features that the prior makes.

    Args:
        prior: a model's prior; its `slot` are the features that the pipeline expects.
        pipeline: an unCLIP pipeline: one whose call takes `image_embeds` or `image_embeddings`.
        prompts: texts.
        samples: number of pictures of each.
        seed: seed of the prior's and of the pipeline's noise.
        settings: further arguments of the pipeline, such as `num_inference_steps`.

    Raises:
        BridgeError: the pipeline takes no image features, or features of another width.
        QueryError: a prompt is empty.
    """
    arguments = signature(pipeline.__call__).parameters
    name = next((each for each in INPUTS if each in arguments), None)
    if name is None:
        raise BridgeError(
            f"{type(pipeline).__name__} takes no image features; expected an unCLIP pipeline, whose call takes "
            f"{' or '.join(INPUTS)}."
        )
    features = torch.from_numpy(prior.vectors(prompts, seed=seed))
    expected = _width(pipeline)
    if expected is not None and features.shape[1] != expected:
        raise BridgeError(
            f"the prior makes vectors of {features.shape[1]} numbers, and {type(pipeline).__name__} reads {expected}: "
            "it was trained on another image encoder. Train the space on that encoder, and name its features by slot "
            "in [heads.prior]."
        )
    kwargs = {"prompt": "", **settings} if "prompt" in arguments else dict(settings)
    return [_call(pipeline, name, each, samples, seed, kwargs) for each in features]


def _call(pipeline: Any, name: str, features: Tensor, samples: int, seed: int, kwargs: Any) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(seed)
    if name == "image_embeds":
        kwargs = {**kwargs, "num_images_per_prompt": samples}
        given = features[None]
    else:  # the pipeline takes the number of pictures from its features
        given = features.expand(samples, -1)
    pictures: list[Image.Image] = pipeline(**{name: given}, generator=generator, **kwargs).images
    return pictures


def _width(pipeline: Any) -> int | None:
    """Return the width of a pipeline's image features, if its image encoder says it."""
    config = getattr(getattr(pipeline, "image_encoder", None), "config", None)
    return getattr(config, "projection_dim", None)
