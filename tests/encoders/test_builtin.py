"""The weightless encoders: what a linear map can read from them, and exact values where they are known."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lightcrl.data.synthetic import ATTRIBUTES, Scene, describe, draw, sound
from lightcrl.encoders import BUILTIN, Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.builtin.descriptors import binary_patterns, oriented_gradients, otsu_threshold
from lightcrl.encoders.builtin.hashing import WIDEST, count_columns, letter_runs, words_and_pairs
from lightcrl.encoders.builtin.mel import mel_filters, triangles
from lightcrl.errors import EncoderError, ItemError

RATE = 16_000
TRAIN, TEST = 300, 150

RAW: dict[str, Callable[[Scene, int], object]] = {
    "text": lambda scene, seed: describe(scene, np.random.default_rng(seed)),
    "image": draw,
    "audio": sound,
}

# Texts leave colour, place and texture out in one of seven each, and the background in three of five.
READABLE = {
    "text": {"shape": 0.97, "count": 0.97, "colour": 0.8, "position": 0.8, "texture": 0.8},
    "image": {"shape": 0.9, "count": 0.95, "colour": 0.97, "position": 0.97, "texture": 0.75, "background": 0.97},
    "audio": {"shape": 0.87, "count": 0.92, "colour": 0.8, "position": 0.8, "texture": 0.95},
}


def make(kind: str, **options: object) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": kind, "model": "builtin", "options": options}))


@pytest.mark.parametrize("kind", ["text", "image", "audio"])
def test_a_linear_map_can_read_the_synthetic_world(kind):
    rng = np.random.default_rng(0)
    scenes = [Scene.random(rng) for _ in range(TRAIN + TEST)]
    encoder = make(kind)
    rows = np.stack([encoder.prepare(RAW[kind](scene, number)).ravel() for number, scene in enumerate(scenes)])
    rows = (rows - rows[:TRAIN].mean(0)) / (rows[:TRAIN].std(0) + 1e-3)
    kernel = rows @ rows[:TRAIN].T / rows.shape[1]
    for attribute, least in READABLE[kind].items():
        values = ATTRIBUTES[attribute]
        labels = np.array([values.index(getattr(scene, attribute)) for scene in scenes])
        targets = np.eye(len(values))[labels[:TRAIN]]
        weights = np.linalg.solve(kernel[:TRAIN] + 0.1 * np.eye(TRAIN), targets - targets.mean(0))
        accuracy = float(((kernel[TRAIN:] @ weights).argmax(1) == labels[TRAIN:]).mean())
        assert accuracy >= least, (attribute, accuracy)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("text", {"dim": 64}), ("image", {"size": 64}), ("image", {"grid": 3}), ("audio", {"segments": 3})],
)
def test_options_change_the_fingerprint_and_the_shape(kind, options):
    one, other = make(kind), make(kind, **options)
    assert one.fingerprint != other.fingerprint
    assert other.fingerprint == make(kind, **options).fingerprint
    raw = {"text": "a dog", "image": Image.new("RGB", (20, 20)), "audio": (np.ones(8000, np.float32), RATE)}[kind]
    assert other.prepare(raw).shape == (other.slots, other.dim)
    assert ((one.slots, one.dim) != (other.slots, other.dim)) or options == {"size": 64}


def test_every_version_makes_another_fingerprint(monkeypatch):
    for name in BUILTIN:
        made = BUILTIN.load(name)
        before = made().fingerprint
        monkeypatch.setattr(made, "version", 99)
        assert made().fingerprint != before


# Texts


def test_hashed_texts_are_as_alike_as_their_ngrams():
    texts = ["a red dog and a red cat", "a red dog and a blue bird", "three green fish swim", "dog"]
    encoder = make("text", dim=4096)
    vectors = np.stack([encoder.prepare(text)[0] for text in texts]).astype(np.float64) / np.sqrt(4096)
    grams = []
    for text in texts:
        words = text.split()
        grams.append(Counter(words + [" ".join(pair) for pair in itertools.pairwise(words)]))
    names = sorted(set().union(*grams))
    counts = np.array([[gram[name] for name in names] for gram in grams])
    weights = np.where(counts, 1 + np.log(np.maximum(counts, 1)), 0)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=0.05)


def test_hashed_texts_are_the_same_everywhere():
    """Change these numbers together with `version`."""
    expected = [
        [-0.89443, 1.34164, 1.78885, 0.44721, -0.44721, 2.23607, 0.0, -1.78885],
        [2.2188, 1.38675, 0.5547, 0.27735, 1.94145, -0.27735, 0.27735, -1.38675],
    ]
    found = make("text", dim=8).prepare("a red dog")
    np.testing.assert_allclose(found, np.array(expected), atol=1e-4)


@pytest.mark.parametrize("words", [words_and_pairs, letter_runs])
def test_ngrams_are_hashed_as_scikit_learn_does(words):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    view = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
    if words is letter_runs:
        view = {"ngram_range": (3, 5), "analyzer": "char_wb"}
    oracle = text.HashingVectorizer(n_features=WIDEST, alternate_sign=False, norm=None, dtype=np.float32, **view)
    rng = np.random.default_rng(0)
    texts = [
        "!!!",
        "😀",
        "日本語",
        "a",
        "ab",
        "abc",
        " x  yy\n\nzzz ",
        "İstanbul ß É",
        "a\u2003b  c",
        "x" * 500,
        "a\x00b",
    ]
    texts += [describe(Scene.random(rng), rng) for _ in range(100)]
    for text in texts:
        expected = oracle.transform([text])
        columns, counts = count_columns(words(text))
        assert columns.tolist() == expected.indices.tolist()
        assert counts.tobytes() == expected.data.tobytes()


def test_texts_without_letters_are_texts():
    encoder = make("text")
    for text in ("!!!", "😀", "日本語", "a"):
        assert np.isfinite(encoder.prepare(text)).all()
        assert np.abs(encoder.prepare(text)).sum() > 0
    with pytest.raises(ItemError, match="empty text"):
        encoder.prepare(" \n")


# Pictures


def dots(places: list[tuple[int, int]], colour: str = "red") -> Image.Image:
    image = Image.new("RGB", (96, 96), "white")
    for x, y in places:
        ImageDraw.Draw(image).ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour)
    return image


def test_descriptors_have_the_bits_of_scikit_image():
    from skimage.feature import hog, local_binary_pattern
    from skimage.filters import threshold_otsu

    rng = np.random.default_rng(0)
    pictures = [draw(Scene.random(rng), number) for number in range(6)]
    pictures += [Image.fromarray(rng.integers(0, 256, (48, 72, 3), dtype=np.uint8)), Image.new("RGB", (96, 96), "red")]
    for picture in pictures:
        rgb, grey = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255, np.asarray(picture.convert("L"))
        for cell in (4, 12):
            expected = hog(rgb, 9, (cell, cell), (2, 2), block_norm="L2-Hys", feature_vector=False, channel_axis=-1)
            assert oriented_gradients(rgb, cell).tobytes() == expected.tobytes()
        for radius in (1, 2):
            np.testing.assert_array_equal(
                binary_patterns(grey, radius), local_binary_pattern(grey, 8, radius, "uniform")
            )
        distance = rgb.mean(2, dtype=np.float64)
        assert otsu_threshold(distance) == threshold_otsu(distance)


def test_a_cell_knows_its_colour():
    image = Image.new("RGB", (96, 96), (51, 102, 204))
    image.paste((255, 0, 0), (48, 0, 96, 48))
    cells = make("image").prepare(image)[:16].reshape(4, 4, -1)
    np.testing.assert_allclose(cells[3, 0, 36:39], [0.2, 0.4, 0.8], atol=1e-5)
    np.testing.assert_allclose(cells[0, 3, 36:39], [1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(cells[3, 0, 39:42], 0, atol=1e-3)


def test_a_pixel_counts_for_the_hues_next_to_it():
    red, grey = (make("image").prepare(Image.new("RGB", (96, 96), colour))[0] for colour in ("red", (128, 128, 128)))
    assert red[42:57].argmax() == 0
    np.testing.assert_allclose(np.square(red[42:54]).sum(), 1, atol=1e-5)
    np.testing.assert_allclose(np.square(grey[54:57]), [0, 1, 0], atol=0.01)


@pytest.mark.parametrize("count", range(6))
def test_regions_are_counted(count):
    spots = [(15, 15), (80, 20), (20, 75), (75, 80), (48, 48)][:count]
    regions = make("image").prepare(dots(spots))[-1]
    assert regions[40:48].tolist() == [1.0] * count + [0.0] * (8 - count)
    assert regions[48:56].tolist() == [float(number == count) for number in range(1, 9)]


def test_a_region_knows_colour_place_and_size():
    regions = make("image").prepare(dots([(24, 72)], "blue"))[-1]
    np.testing.assert_allclose(regions[:3], [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(regions[3:5], [0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(regions[5], np.sqrt(np.pi * 8.5**2) / 96, rtol=0.05)


def test_an_outline_knows_its_corners_whichever_way_it_is_turned():
    """The strongest harmonic of the distance from the centre is that of the number of corners."""
    encoder = make("image")
    for corners in (3, 4, 5):
        for turn in (0.0, 0.3, 1.0):
            angles = turn + 2 * np.pi * np.arange(corners) / corners
            image = Image.new("RGB", (96, 96), "white")
            ImageDraw.Draw(image).polygon([(48 + 35 * np.cos(a), 48 + 35 * np.sin(a)) for a in angles], fill="green")
            assert encoder.prepare(image)[-1][12:20].argmax() == corners - 1


def test_a_shadow_is_no_region():
    image = dots([(30, 48)])
    ImageDraw.Draw(image).rectangle((60, 30, 85, 65), fill=(200, 200, 200))
    assert make("image").prepare(image)[-1][48:56].argmax() == 0


def test_a_picture_of_one_colour_has_no_regions():
    for colour in ("black", "white", "red"):
        tokens = make("image").prepare(Image.new("RGB", (50, 30), colour))
        assert np.isfinite(tokens).all()
        assert not tokens[-1][40:56].any()


def test_a_large_picture_is_set_aside():
    encoder = load_encoder(EncoderSpec(kind="image", model="builtin", max_pixels=100))
    with pytest.raises(ItemError, match="image too large: 20x20 pixels; data allows 100"):
        encoder.prepare(Image.new("RGB", (20, 20)))


@pytest.mark.parametrize("options", [{"size": 50}, {"grid": 0}, {"size": 32, "grid": 8}])
def test_cells_that_do_not_fit_are_refused(options):
    with pytest.raises(EncoderError, match="expected cells of an even number of pixels"):
        make("image", **options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("text", {"dim": 0}, "dim = 0: expected a whole number from 1 to 1,048,576"),
        ("text", {"dim": -3}, "dim = -3: expected"),
        ("text", {"dim": 2**64}, "dim = 18446744073709551616: expected"),
        ("text", {"dim": "a"}, "dim = 'a': expected"),
        ("text", {"dim": 3.5}, "dim = 3.5: expected"),
        ("image", {"grid": "a"}, "size = 96, grid = 'a': expected whole numbers"),
    ],
)
def test_options_that_are_no_numbers_are_refused(kind, options, words):
    with pytest.raises(EncoderError, match=re.escape(words)):
        make(kind, **options)


def test_texts_may_have_one_number_per_token():
    tokens = make("text", dim=1).encode([make("text", dim=1).prepare("a red square")]).values
    assert tokens.shape == (1, 2, 1)
    assert torch.isfinite(tokens).all()


# Sounds


def tone(pitch: float, seconds: float = 1.0, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def hear(samples: np.ndarray) -> np.ndarray:
    return make("audio").prepare((samples, RATE))


def test_mel_filters_share_every_frequency_between_two():
    filters = mel_filters(64, 512, RATE)
    assert filters.shape == (64, 257)
    assert (filters.max(1) > 0.5).all()
    np.testing.assert_allclose(filters[:, 60:240].sum(0), 1, atol=1e-5)


def test_narrow_triangles_interpolate():
    found = triangles(np.array([1.4, 1.5, 1.6]), np.arange(4.0))
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0]])


@pytest.mark.parametrize("pitch", [300, 1000, 4000])
def test_a_tone_stands_in_its_band(pitch):
    band = mel_filters(64, 512, RATE)[:, round(pitch / RATE * 512)].argmax()
    tokens = hear(tone(pitch))
    for token in (tokens[0], tokens[2], *tokens[6:]):
        assert abs(int(token.argmax()) - int(band)) <= 1


def test_levels_are_logarithms():
    loud, soft = hear(tone(1000)), hear(tone(1000, gain=0.05))
    band = loud[0].argmax()
    np.testing.assert_allclose(loud[0, band] - soft[0, band], np.log(10) / 3, rtol=0.01)


def test_parts_follow_in_time():
    tokens = hear(np.concatenate([tone(300, 0.5), tone(3000, 0.5)]))
    low, high = tokens[6].argmax(), tokens[13].argmax()
    assert low < high
    assert (tokens[6:10].argmax(1) == low).all()
    assert (tokens[10:].argmax(1) == high).all()


@pytest.mark.parametrize("beat", [4.0, 20.0, 90.0])
def test_pulses_stand_at_their_rate(beat):
    time = np.arange(RATE * 2) / RATE
    tokens = hear((tone(2000, 2) * (0.5 + 0.5 * np.sin(2 * np.pi * beat * time))).astype(np.float32))
    edges = np.geomspace(0.5, 250, 66)
    assert edges[tokens[4].argmax()] <= beat * 1.05 <= edges[tokens[4].argmax() + 2] * 1.1


def test_intervals_do_not_depend_on_pitch():
    def chord(pitch: float, *partials: float) -> np.ndarray:
        return hear(np.mean([tone(pitch * partial) for partial in partials], axis=0))[5]

    def alike(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one, other)[0, 1])

    assert alike(chord(300, 1, 2, 3), chord(500, 1, 2, 3)) > alike(chord(300, 1, 2, 3), chord(300, 1, 2.7, 4.1)) + 0.1


@pytest.mark.parametrize("samples", [np.zeros(1600, np.float32), np.full(3, 0.1, np.float32), tone(440, 0.02)])
def test_silence_and_clicks_have_finite_tokens(samples):
    assert np.isfinite(hear(samples)).all()
