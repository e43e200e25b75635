"""Pictures: safe reading, and the frozen image encoders of the transformers library."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.inputs import content, pixels
from lightcrl.encoders.loaded import Prepared
from lightcrl.errors import ItemError

_OPENING = threading.Lock()

# Least factor between the decoded size of a JPEG and the model's input size.
DRAFT = 2


def read_image(raw: Any, max_pixels: int, least: int | None = None) -> Image.Image:
    """Return a picture as RGB, upright.

    All forms of `encoders.inputs` are accepted: a file's path or bytes, a PIL image, an array, a tensor. Transparent
    pixels become white; 16 bits per channel become 8. A JPEG that will be scaled down to `least` pixels a side may be
    decoded at a half, a quarter or an eighth of its size, with sides of at least `DRAFT` times `least`: that is faster.

    Raises:
        ItemError: the item is not a picture, broken, or has more than `max_pixels`, which is checked before decoding.
    """
    image = _open(raw)
    width, height = image.size
    if width * height > max_pixels:
        raise ItemError("image too large", f"{width}x{height} pixels; data allows {max_pixels}")
    if least is not None and image.format == "JPEG":
        image.draft(None, (DRAFT * least, DRAFT * least))
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise any kind of exception for broken files
        raise ItemError("unreadable image", str(error) or type(error).__name__) from error


def _open(raw: Any) -> Image.Image:
    """Open a picture: its header is read, its pixels are not."""
    if isinstance(raw, Image.Image):
        return raw
    raw = content(raw, "image")
    if isinstance(raw, (np.ndarray, Tensor)):
        values = pixels(raw)
        return Image.fromarray(values.squeeze(2) if values.shape[2:] == (1,) else values)
    if not isinstance(raw, (str, Path, bytes)):
        raise ItemError("not an image", f"found {type(raw).__name__}")
    try:
        data = raw if isinstance(raw, bytes) else Path(raw).read_bytes()
        # Pillow's limit on pixels is global and warns; ours is checked above, so Pillow's is lifted while it opens.
        with _OPENING:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except FileNotFoundError:
        raise ItemError("missing file", str(raw)) from None
    except UnidentifiedImageError:
        raise ItemError("unreadable image", "of no known format" if data else "the file is empty") from None
    except Exception as error:  # as in `read_image`
        raise ItemError("unreadable image", str(error) or type(error).__name__) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these to 255. Integers have 16 bits; floats run to 1, to 255 or to 65535.
        values = np.asarray(image, dtype=np.float64)
        ranges = (1, 255, 65535) if image.mode == "F" else (65535,)
        most = next((most for most in ranges if values.max() <= most), 65535)
        image = Image.fromarray(np.rint(values.clip(0, most) * (255 / most)).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


class ImageEncoder(HuggingFaceEncoder):
    """Pictures as the hidden states of their patches, or the maps of a CNN."""

    tower = "vision_model"
    processor_class = ("AutoImageProcessor", "image processor")
    # Torchvision, if installed, resizes to other values: the same files must give the same tokens everywhere.
    processor_options: ClassVar[Mapping[str, Any]] = {"backend": "pil"}
    batches = ((8, math.inf), (256, math.inf))

    def prepare(self, raw: Any) -> Prepared:
        """Return pixels [3, H, W] as input of the model.

        Raises:
            ItemError: see `read_image`.
        """
        return self._pixels(read_image(raw, self.spec.max_pixels, self.least))

    @cached_property
    def least(self) -> int | None:
        """The side in pixels to which the processor scales pictures; None if it does not scale them."""
        size = getattr(self.processor, "size", None) or {}
        return max(dict(size).values(), default=None) if getattr(self.processor, "do_resize", False) else None

    def describe(self) -> Mapping[str, Any]:
        """Return the settings of `HuggingFaceEncoder` and the decoded size of large JPEGs."""
        return {**super().describe(), "draft": DRAFT}

    def trial(self) -> list[Prepared]:
        """Return a slope from black to white, twice."""
        return [self._pixels(Image.linear_gradient("L").convert("RGB"))] * 2

    def _pixels(self, image: Image.Image) -> Prepared:
        # A picture three pixels high would be mistaken for one with its channels first.
        features = self.processor(image, input_data_format="channels_last", return_tensors="pt")
        return {"pixel_values": features["pixel_values"][0]}

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return the tokens that the model puts before the patches, and the layout of the patches."""
        cls, prefix = leading_tokens(network, layer.shape[-1])
        height, width = inputs["pixel_values"].shape[-2:]
        return {"cls": cls, "prefix": prefix, "grid": _grid(layer.shape[1] - prefix, height / width)}


def leading_tokens(network: torch.nn.Module, width: int) -> tuple[bool, int]:
    """Return whether a transformer over patches has a CLS token, and its number of learnt tokens before the patches."""
    sizes = {name.rpartition(".")[2]: weight.numel() for name, weight in network.named_parameters()}
    cls = sum(sizes.get(name, 0) for name in ("cls_token", "class_token", "class_embedding"))
    others = sum(sizes.get(name, 0) for name in ("distillation_token", "register_tokens"))
    return cls > 0, (cls + others) // width


def _grid(patches: int, aspect: float) -> tuple[int, int] | None:
    """Return rows and columns of `patches` square patches that fill a picture of height / width = `aspect`."""
    rows = round(math.sqrt(patches * aspect))
    return (rows, patches // rows) if rows and patches % rows == 0 else None
