"""The page of imagined pictures: prompts, samples, guidance, and the nearest training pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lightcrl import __version__
from lightcrl.data import DataSpec, load_dataset
from lightcrl.errors import DataError, MissingExtraError
from lightcrl.heads.drawing.head import read_pixels
from lightcrl.imaginer import Imaginer

GUIDANCES = (0.0, 1.0, 2.0, 4.0)
NEAREST = 3
MOST_TRAINING = 20_000
"""Greatest number of training pictures that are compared."""


@dataclass(frozen=True)
class Near:
    """A training picture beside a sample.

    Attributes:
        picture: the training picture.
        distance: root of the mean squared difference of their pixels, from 0 to 255.
    """

    picture: Image.Image
    distance: float


@dataclass(frozen=True)
class Imagined:
    """A prompt with its pictures.

    Attributes:
        text: the prompt.
        samples: drawn pictures.
        guided: one noise with other strengths of guidance.
        nearest: the training pictures nearest to the first sample, nearest first.
    """

    text: str
    samples: tuple[Image.Image, ...]
    guided: Mapping[float, Image.Image]
    nearest: tuple[Near, ...]


def gather_imagined(
    imaginer: Imaginer, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
) -> tuple[Imagined, ...]:
    """Return prompts with their pictures, other strengths of guidance, and the nearest training pictures.

    Args:
        imaginer: the model.
        texts: prompts.
        pictures: samples of each prompt.
        settings: settings of `Imaginer.imagine` with which they were drawn.
    """
    rows = {
        strength: imaginer.imagine(texts, **{**settings, "guidance": strength, "samples": 1, "draws": 1})
        for strength in GUIDANCES
    }
    training = training_pictures(imaginer)
    return tuple(
        Imagined(
            text,
            tuple(made),
            {strength: row[number][0] for strength, row in rows.items()},
            tuple(nearest(made[0], training)),
        )
        for number, (text, made) in enumerate(zip(texts, pictures, strict=True))
    )


def training_pictures(imaginer: Imaginer) -> np.ndarray:
    """Return the pictures [N, S, S, 3] of the decoder's training, `MOST_TRAINING` at most; none if gone."""
    checkpoint, head = imaginer.embedder.checkpoint, imaginer.drawing
    size = head.options.size
    try:
        data = DataSpec.model_validate(checkpoint.recipe["data"])
        dataset = load_dataset(data, {head.target: checkpoint.encoders[head.target].kind})
    except (KeyError, DataError):
        return np.zeros((0, size, size, 3), np.uint8)
    links = dataset.links[head.target]
    numbers = sorted({number for number, group in links.tolist() if dataset.splits[group] == "train"})
    items = [dataset.items[head.target][number] for number in numbers[:MOST_TRAINING]]
    return np.stack([read_pixels(item.read(), size) for item in items])


def nearest(picture: Image.Image, training: np.ndarray, count: int = NEAREST) -> list[Near]:
    """Return the training pictures [N, S, S, 3] with the least differences of pixels, nearest first."""
    own = np.asarray(picture, np.float32)
    distances = np.array([np.sqrt(np.square(own - each).mean()) for each in training])
    order = np.argsort(distances, kind="stable")[:count].tolist()
    return [Near(Image.fromarray(training[place]), float(distances[place])) for place in order]


def render_imagined(imagined: Sequence[Imagined]) -> str:
    """Return the page as HTML.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page", "report") from error
    return fill("imagining.html.j2", {}, imagined=imagined, uri=picture_uri, version=__version__)


def picture_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI of its PNG, which keeps every pixel."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
