"""Pictures: what can be read and what cannot; image encoders against the model's own hidden states in float64."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.image import read_image
from lightcrl.errors import EncoderError, ItemError

LIMIT = 10_000


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def corner(raw: object) -> tuple[int, ...]:
    return tuple(np.asarray(read_image(raw, LIMIT))[0, 0].tolist())


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header promises width x height pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


ORANGE = (240, 130, 20)
PLAIN = Image.new("RGB", (20, 10), ORANGE)


def test_a_picture_may_be_a_path_bytes_a_pil_image_or_an_array(tmp_path):
    path = tmp_path / "plain.png"
    path.write_bytes(saved(PLAIN))
    array = np.asarray(PLAIN)
    for raw in (path, str(path), path.read_bytes(), PLAIN, array):
        image = read_image(raw, LIMIT)
        assert (image.mode, image.size) == ("RGB", (20, 10))
        np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (4, 4), 90), (90, 90, 90)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (*ORANGE, 255)), ORANGE),
        (Image.new("RGBA", (4, 4), (*ORANGE, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (4, 4), (0, 51)), (204, 204, 204)),
        (PLAIN.convert("P", palette=Image.Palette.ADAPTIVE), ORANGE),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.fromarray(np.full((4, 4), 257 * 90, dtype=np.uint16)), (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 257 * 90, dtype=np.int32)), (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 0.2, dtype=np.float32)), (51, 51, 51)),
        (Image.fromarray(np.full((4, 4), 51.2, dtype=np.float32)), (51, 51, 51)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_rgb(image, expected):
    assert corner(image) == expected


def test_a_transparent_palette_stands_on_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert corner(saved(image)) == (10, 20, 30)
    assert corner(saved(image, transparency=1)) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4)])
def test_arrays_of_every_number_of_channels(shape):
    assert corner(np.full(shape, 255, dtype=np.uint8)) == (255, 255, 255)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 6, 3), np.int32),
        np.zeros((2, 5, 6), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
    ids=["whole numbers", "two channels", "empty", "one axis"],
)
def test_other_arrays_are_no_pictures(array):
    with pytest.raises(ItemError, match=r"not an image: ndarray of shape .* expected"):
        read_image(array, LIMIT)


def test_pictures_are_turned_as_their_camera_was():
    image = Image.new("RGB", (20, 10), "white")
    image.putpixel((0, 0), ORANGE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(saved(image, exif=exif), LIMIT)
    assert turned.size == (10, 20)
    assert turned.getpixel((9, 0)) == ORANGE


def test_the_first_picture_of_an_animation_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert corner(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_set_aside(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    read_image(data, LIMIT)
    with pytest.raises(ItemError) as caught:
        read_image(data[: int(share * len(data))], LIMIT)
    assert caught.value.reason == "unreadable image"


def test_a_file_of_another_format_is_set_aside(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    with pytest.raises(ItemError, match="unreadable image: of no known format"):
        read_image(path, LIMIT)
    with pytest.raises(ItemError, match="unreadable image: the file is empty"):
        read_image(b"", LIMIT)
    with pytest.raises(ItemError, match=r"missing file: .*none\.png"):
        read_image(tmp_path / "none.png", LIMIT)
    with pytest.raises(ItemError, match="unreadable image"):
        read_image(tmp_path, LIMIT)
    with pytest.raises(ItemError, match="not an image: found dict"):
        read_image({}, LIMIT)


@pytest.mark.parametrize("side", [101, 20_000, 60_000])
def test_a_bomb_is_set_aside_before_it_is_decoded(side):
    """Small or large, whatever Pillow itself would warn of or refuse."""
    with pytest.raises(ItemError) as caught:
        read_image(bomb(side, side), LIMIT)
    assert (caught.value.reason, caught.value.detail) == ("image too large", f"{side}x{side} pixels; data allows 10000")


def test_our_limit_is_the_only_one():
    with pytest.raises(ItemError) as caught:
        read_image(bomb(20_000, 20_000), 10**9)
    assert caught.value.reason == "unreadable image"


def test_pillows_limit_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    barrier = threading.Barrier(4)

    def read(_: int) -> None:
        barrier.wait()
        for _ in range(25):
            read_image(saved(PLAIN), LIMIT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert Image.MAX_IMAGE_PIXELS == 1234


def make(folder: Path, **settings: object) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "image", "model": str(folder), **settings}))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.registers(tmp_path_factory.mktemp("registers"))


def encode(folder: Path, **settings: object) -> Tensor:
    encoder = make(folder, **settings)
    return encoder.encode([encoder.prepare(picture) for picture in tiny.pictures()]).values


@pytest.fixture
def outputs(reference):
    """What the model itself says of all pictures."""

    def run(folder: Path, tower: str | None = None):
        encoder, model = make(folder), reference(folder)
        pixels = torch.stack([encoder.prepare(picture)["pixel_values"] for picture in tiny.pictures()])
        with torch.no_grad():
            return (getattr(model, tower) if tower else model)(pixels.double(), output_hidden_states=True)

    return run


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_pools_of_a_transformer(vit, outputs):
    output = outputs(vit)
    found = encode(vit, layers=(-1, 2), tokens="cls+mean+max")
    expected = []
    for state in (output.last_hidden_state, output.hidden_states[3]):
        expected += [state[:, 0], state[:, 1:].mean(1), state[:, 1:].amax(1)]
    close(found, torch.stack(expected, dim=1))


def test_the_last_layer_has_the_final_norm(vit, outputs):
    output = outputs(vit)
    close(encode(vit, layers=(-1,), tokens="all"), output.last_hidden_state)
    assert not torch.allclose(output.hidden_states[-1], output.last_hidden_state)


def test_registers_are_left_out_of_pools_and_grids(registers, outputs):
    state = outputs(registers).last_hidden_state
    close(encode(registers, layers=(-1,), tokens="mean")[:, 0], state[:, 5:].mean(1))
    quarters = state[:, 5:].reshape(5, 2, 2, 2, 2, 32).mean((2, 4)).reshape(5, 4, 32)
    close(encode(registers, layers=(-1,), tokens="grid:2"), torch.cat([state[:, :1], quarters], dim=1))


def test_pooled_is_cls_where_there_is_one(vit, outputs):
    close(encode(vit, layers=(-1,), tokens="pooled")[:, 0], outputs(vit).last_hidden_state[:, 0])


def test_pools_of_a_cnn(tmp_path, outputs):
    folder = tiny.resnet(tmp_path)
    output = outputs(folder)
    encoder = make(folder, layers=(-1, 1), tokens="mean+max")
    assert (encoder.dim, encoder.slots) == (24, 4)
    found = encode(folder, layers=(-1, 1), tokens="mean+max")
    close(found[:, :2], torch.stack([output.last_hidden_state.mean((2, 3)), output.last_hidden_state.amax((2, 3))], 1))
    close(found[:, 2, :12], output.hidden_states[2].mean((2, 3)))
    assert not found[:, 2:, 12:].any()
    with pytest.raises(EncoderError, match="no CLS token"):
        _ = make(folder, tokens="cls").dim


def test_a_cnns_tokens_lie_row_by_row(tmp_path, outputs):
    folder = tiny.resnet(tmp_path)
    maps = outputs(folder).last_hidden_state
    found = encode(folder, layers=(-1,), tokens="all")
    close(found[:, 1], maps[:, :, 0, 1])
    close(found, maps.flatten(2).mT)
    close(encode(folder, layers=(-1,), tokens="grid:1")[:, 0], maps.mean((2, 3)))


def test_the_last_stage_of_a_cnn_may_lie_beside_its_hidden_states(tmp_path, outputs):
    folder = tiny.mobilenet(tmp_path)
    output = outputs(folder)
    encoder = make(folder, layers=(-1, -2), tokens="mean")
    assert encoder.loaded.blocks == 17
    found = encode(folder, layers=(-1, -2), tokens="mean")
    close(found[:, 0], output.last_hidden_state.mean((2, 3)))
    width = output.hidden_states[-1].shape[1]
    close(found[:, 1, :width], output.hidden_states[-1].mean((2, 3)))


def test_the_pictures_of_a_dual_encoder_go_through_its_tower(tmp_path, outputs):
    folder = tiny.clip(tmp_path)
    close(encode(folder, layers=(-1,), tokens="all"), outputs(folder, "vision_model").last_hidden_state)


def test_a_picture_of_three_rows_is_not_taken_for_three_channels(vit):
    encoder = make(vit)
    thin = np.random.default_rng(0).integers(0, 256, (3, 40, 3), dtype=np.uint8)
    assert encoder.prepare(Image.fromarray(thin))["pixel_values"].shape == (3, 32, 32)
    turned = encoder.prepare(np.ascontiguousarray(thin.swapaxes(0, 1)))["pixel_values"].mT
    torch.testing.assert_close(encoder.prepare(Image.fromarray(thin))["pixel_values"], turned, rtol=0, atol=0.02)


def test_max_pixels_is_the_recipes(vit):
    with pytest.raises(ItemError, match="image too large: 40x40 pixels; data allows 100"):
        make(vit, max_pixels=100).prepare(tiny.pictures()[0])
    assert make(vit, max_pixels=100).dim == 32


def test_a_grid_finer_than_the_patches_is_refused(vit):
    with pytest.raises(EncoderError, match="a model with 4 x 4 patches"):
        _ = make(vit, tokens="grid:5").dim


def test_bfloat16_is_near_float32(vit):
    exact, rough = (encode(vit, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert float(torch.cosine_similarity(exact, rough, dim=-1).min()) > 0.998
    assert not torch.equal(exact, rough)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "blocks", "dim", "slots"), [("vit-tiny-patch16-224", 12, 192, 6), ("mobilenet-v2", 17, 1280, 2)]
)
def test_real_models_tell_classes_apart(shared, name, blocks, dim, slots):
    """Nearest neighbours among four pictures each of four classes of CIFAR-10 are of the same class."""
    encoder = make(shared / "models" / name)
    assert (encoder.loaded.blocks, encoder.dim, encoder.slots) == (blocks, dim, slots)
    folders = [shared / "data" / "cifar10" / "test" / label for label in ("airplane", "frog", "horse", "truck")]
    paths = [path for folder in folders for path in sorted(folder.iterdir())[:8]]
    vectors = encoder.encode([encoder.prepare(path) for path in paths]).places(0, slots).values.flatten(1)
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
    assert float((nearest // 8 == torch.arange(32) // 8).float().mean()) > 0.7


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_and_never_below_twice_what_is_wanted():
    row, column = np.linspace(0, 255, 800)[:, None, None], np.linspace(255, 0, 640)[None, :, None]
    slope = np.broadcast_to((row + column) / 2, (800, 640, 3)).astype(np.uint8)
    jpeg = saved(Image.fromarray(slope), "JPEG", quality=95)
    sizes = {least: read_image(jpeg, 1 << 20, least).size for least in (32, 64, 150, 320, 321)}
    assert sizes == {32: (80, 100), 64: (160, 200), 150: (320, 400), 320: (640, 800), 321: (640, 800)}
    small = np.asarray(read_image(jpeg, 1 << 20, 64).resize((64, 64)), dtype=float)
    whole = np.asarray(read_image(jpeg, 1 << 20).resize((64, 64)), dtype=float)
    assert np.abs(small - whole).max() <= 2
    # What is no JPEG is taken whole, and limits count for the picture as it is.
    assert read_image(saved(Image.fromarray(slope)), 1 << 20, 32).size == (640, 800)
    with pytest.raises(ItemError, match="640x800 pixels"):
        read_image(jpeg, 10_000, 32)


def test_the_encoder_knows_how_large_its_pictures_become(tmp_path):
    encoder = load_encoder(EncoderSpec(kind="image", model=str(tiny.vit(tmp_path))))
    side = encoder.prepare(PLAIN)["pixel_values"].shape[-1]
    assert encoder.least == side
    encoder.processor.do_resize = False
    del encoder.least
    assert encoder.least is None
