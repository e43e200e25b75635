"""Random changes of pictures that preserve their meaning, for training a tower on few pictures."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageOps

# Height by width of a crop lies between a ratio and its inverse, as in torchvision's RandomResizedCrop.
RATIO = 3 / 4
TRIES = 10


def crop_and_flip(image: Image.Image, generator: np.random.Generator, crop: float, flip: bool) -> Image.Image:
    """Return a random part of a picture, mirrored in half of the cases if `flip`.

    The part has between `crop` and all of the picture's area and a ratio of sides between 3/4 and 4/3 times its own;
    the encoder's own preprocessing scales it (Inception's augmentation, arXiv 1409.4842, section 6).

    Args:
        image: the picture.
        generator: source of all randomness.
        crop: smallest share of the area; 1 keeps the whole picture.
        flip: true to mirror pictures in half of the cases.
    """
    width, height = image.size
    if crop < 1:
        for _ in range(TRIES):
            area = generator.uniform(crop, 1)
            ratio = math.exp(generator.uniform(math.log(RATIO), -math.log(RATIO)))
            wide, high = round(width * math.sqrt(area * ratio)), round(height * math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left = int(generator.integers(width - wide + 1))
                top = int(generator.integers(height - high + 1))
                image = image.crop((left, top, left + wide, top + high))
                break
    return ImageOps.mirror(image) if flip and generator.random() < 0.5 else image
