from __future__ import annotations

import json
import math
import wave
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightcrl.data import DataSpec, load_dataset
from lightcrl.data.folder import class_folder
from lightcrl.data.synthetic import (
    ATTRIBUTES,
    Scene,
    Synthetic,
    describe,
    draw,
    sound,
    write_class_folder,
    write_table,
)
from lightcrl.data.synthetic import caption as words
from lightcrl.data.synthetic.picture import BACKGROUNDS, CENTRES, COLOURS
from lightcrl.data.synthetic.sound import LOWEST, STEP
from lightcrl.errors import DataError, UnknownNameError

KINDS = {"image": "image", "text": "text", "audio": "audio"}
PLAIN = Scene("circle", "red", "one", "centre", "plain", "white")
scenes = st.builds(Scene, **{name: st.sampled_from(values) for name, values in ATTRIBUTES.items()})
seeds = st.integers(0, 2**32)


def pixels(scene: Scene, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(scene, seed), np.float32)


def coloured(scene: Scene, seed: int = 0) -> np.ndarray:
    """[96, 96] True where the shape's colour, not the background, is."""
    picture = pixels(scene, seed)
    return picture.max(2) - picture.min(2) > 90


def islands(mask: np.ndarray) -> int:
    """How many separate regions of more than 20 pixels there are."""
    left, found = {tuple(point) for point in np.argwhere(mask).tolist()}, 0
    while left:
        edge, size = [left.pop()], 0
        while edge:
            row, column = edge.pop()
            size += 1
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found += size > 20
    return found


def test_there_are_many_scenes() -> None:
    assert math.prod(map(len, ATTRIBUTES.values())) == 30_720
    with pytest.raises(UnknownNameError, match=r"unknown colour 'gren'\. Did you mean 'green'"):
        replace(PLAIN, colour="gren")


@settings(max_examples=20)
@given(scenes, seeds)
def test_a_picture_depends_on_scene_and_seed_alone(scene: Scene, seed: int) -> None:
    picture = draw(scene, seed)
    assert (picture.size, picture.mode) == ((96, 96), "RGB")
    assert picture.tobytes() == draw(scene, seed).tobytes()
    assert picture.tobytes() != draw(scene, seed + 1).tobytes()


@pytest.mark.parametrize("colour", ATTRIBUTES["colour"])
def test_a_shape_has_its_colour(colour: str) -> None:
    middle = np.median(pixels(replace(PLAIN, colour=colour))[44:53, 44:53].reshape(-1, 3), 0)
    distances = {name: float(np.abs(middle - np.array(value)).sum()) for name, value in COLOURS.items()}
    assert min(distances, key=lambda name: distances[name]) == colour


@pytest.mark.parametrize("background", ATTRIBUTES["background"])
def test_the_edge_has_the_colour_of_the_background(background: str) -> None:
    edge = np.median(pixels(replace(PLAIN, position="bottom", background=background))[:6, 40:56].reshape(-1, 3), 0)
    distances = {name: float(np.abs(edge - np.array(value)).sum()) for name, value in BACKGROUNDS.items()}
    assert min(distances, key=lambda name: distances[name]) == background


@pytest.mark.parametrize("position", ATTRIBUTES["position"])
@pytest.mark.parametrize("count", ATTRIBUTES["count"])
def test_shapes_are_counted_and_placed(position: str, count: str) -> None:
    for seed in range(3):
        mask = coloured(replace(PLAIN, position=position, count=count), seed)
        assert islands(mask) == ATTRIBUTES["count"].index(count) + 1
        down, across = np.argwhere(mask).mean(0) / 96
        nearest = min(CENTRES, key=lambda name: abs(CENTRES[name][0] - across) + abs(CENTRES[name][1] - down))
        assert nearest == position


def test_shapes_and_textures_cover_different_areas() -> None:
    shapes = {shape: coloured(replace(PLAIN, shape=shape)) for shape in ATTRIBUTES["shape"]}
    for one, other in pairwise(sorted(shapes)):
        assert (shapes[one] ^ shapes[other]).sum() > 150
    covered = [coloured(replace(PLAIN, texture=texture)).mean() for texture in ATTRIBUTES["texture"]]
    assert covered[0] > 1.15 * max(covered[1:])
    assert not shapes["ring"][46:50, 46:50].any()


def test_shapes_stay_within_the_picture() -> None:
    for seed in range(4):
        for shape in ATTRIBUTES["shape"]:
            mask = coloured(Scene(shape, "red", "four", ATTRIBUTES["position"][seed], "plain", "white"), seed)
            assert islands(mask) == 4
            assert mask[[0, -1]].sum() + mask[:, [0, -1]].sum() <= 4


@settings(max_examples=20)
@given(scenes, seeds)
def test_a_sound_is_short_and_within_bounds(scene: Scene, seed: int) -> None:
    samples, rate = sound(scene, seed)
    assert rate == 16_000
    assert samples.dtype == np.float32
    assert 0.69 < len(samples) / rate <= 1.0
    assert 0.4 < np.abs(samples).max() <= 1.0
    assert samples.tobytes() == sound(scene, seed)[0].tobytes()


@pytest.mark.parametrize("colour", ATTRIBUTES["colour"])
def test_pitch_tells_the_colour(colour: str) -> None:
    samples, rate = sound(replace(PLAIN, colour=colour), 0)
    pitch = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    assert pitch == pytest.approx(LOWEST * STEP ** ATTRIBUTES["colour"].index(colour), rel=0.02)


@pytest.mark.parametrize("count", ATTRIBUTES["count"])
def test_pulses_tell_the_count(count: str) -> None:
    samples, _ = sound(replace(PLAIN, count=count, colour="pink"), 0)
    loud = np.convolve(np.abs(samples), np.ones(200) / 200, "same") > 0.1
    assert (np.diff(loud.astype(int)) == 1).sum() + int(loud[0]) == ATTRIBUTES["count"].index(count) + 1


def test_loudness_tells_left_from_right() -> None:
    left, right = (np.abs(sound(replace(PLAIN, position=side), 0)[0]) for side in ("left", "right"))
    half = len(left) // 2
    assert left[:half].mean() > 3 * left[half:].mean()
    assert right[half : 2 * half * 8 // 10].mean() > right[:half].mean()


def test_timbres_differ() -> None:
    spectra = []
    for shape in ATTRIBUTES["shape"]:
        spectrum = np.abs(np.fft.rfft(sound(replace(PLAIN, shape=shape), 0)[0], 16_000))
        spectra.append(spectrum / np.linalg.norm(spectrum))
    likeness = np.array(spectra) @ np.array(spectra).T
    assert likeness[~np.eye(8, dtype=bool)].max() < 0.97


@given(scenes, seeds)
def test_a_caption_tells_the_shape_the_count_and_nothing_wrong(scene: Scene, seed: int) -> None:
    told = describe(scene, np.random.default_rng(seed))
    assert told == told.strip()
    assert "  " not in told
    assert "{" not in told
    assert any(name[scene.number > 1] in told for name in words.SHAPES[scene.shape])
    assert any(f"{count} " in told.replace("an ", "a ") for count in words.COUNTS[scene.count])
    known = {"colour": words.COLOURS, "position": words.PLACES, "texture": words.TEXTURES}
    silent = [
        attribute
        for attribute, vocabulary in known.items()
        if not any(word in told for word in vocabulary[getattr(scene, attribute)])
    ]
    assert len(silent) <= 1
    for place, phrases in words.PLACES.items():
        assert place == scene.position or not any(phrase in told for phrase in phrases)


def test_captions_vary() -> None:
    scene = Scene("star", "orange", "one", "top", "striped", "night")
    rng = np.random.default_rng(0)
    told = Counter(describe(scene, rng) for _ in range(400))
    assert len(told) > 200
    assert any("an orange" in one for one in told)
    assert not any("a orange" in one for one in told)
    silent = sum(count for one, count in told.items() if not any(colour in one for colour in words.COLOURS["orange"]))
    assert 30 < silent < 90


def test_a_group_depends_on_its_number_alone() -> None:
    few = list(Synthetic(KINDS, groups=5, seed=1).rows())
    assert list(Synthetic(KINDS, groups=9, seed=1).rows())[:5] == few
    assert [row.cells["text"] for row in Synthetic({"text": "text"}, groups=5, seed=1).rows()] == [
        row.cells["text"] for row in few
    ]
    assert [row.cells for row in Synthetic(KINDS, groups=5, seed=2).rows()] != [row.cells for row in few]


def test_groups_are_mostly_different_scenes() -> None:
    data = load_dataset(DataSpec(source="synthetic", options={"groups": 400}), KINDS)
    assert len(data.groups) == len(data.items["image"]) == len(data.items["audio"]) == 400
    assert len({item.raw.scene for item in data.items["image"]}) > 390
    assert len(data.items["text"]) > 1150
    assert 20 < data.splits.count("dev") < 65
    for attribute, values in ATTRIBUTES.items():
        counts = Counter(getattr(item.raw.scene, attribute) for item in data.items["image"])
        assert min(counts[value] for value in values) > 400 / len(values) / 2


def test_a_second_modality_of_a_kind_is_another_view_of_the_scene() -> None:
    kinds = {"one": "text", "two": "text", "left": "image", "right": "image"}
    for row in Synthetic(kinds, groups=3).rows():
        assert {item.key for item in row.cells["one"]} != {item.key for item in row.cells["two"]}
        left, right = row.cells["left"][0], row.cells["right"][0]
        assert left.raw.scene == right.raw.scene
        assert left.key != right.key


@pytest.mark.parametrize(("option", "value", "least"), [("groups", 0, 1), ("captions", "two", 1), ("seed", -1, 0)])
def test_what_is_no_number_of_things_is_refused(option: str, value: object, least: int) -> None:
    with pytest.raises(DataError, match=f"found {option} = {value!r}; expected a whole number from {least}"):
        load_dataset(DataSpec(source="synthetic", options={option: value}), KINDS)


def test_the_table_on_disk_is_the_same_world(tmp_path: Path) -> None:
    table = write_table(tmp_path / "world", 3, seed=5, captions=2)
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    for line, row in zip(lines, Synthetic(KINDS, groups=3, seed=5, captions=2).rows(), strict=True):
        assert line["text"] == [item.read() for item in row.cells["text"]]
        with Image.open(tmp_path / "world" / line["image"]) as picture:
            assert picture.tobytes() == row.cells["image"][0].read().tobytes()
        samples, rate = row.cells["audio"][0].read()
        with wave.open(str(tmp_path / "world" / line["audio"])) as file:
            assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, rate, len(samples))
            written = np.frombuffer(file.readframes(len(samples)), "<i2") / 32767
        assert np.abs(written - samples).max() < 1e-4


def test_a_class_folder_has_a_class_per_value(tmp_path: Path) -> None:
    folder = write_class_folder(tmp_path / "zero", "texture", per_class=2)
    names, files = class_folder(folder)
    assert names == sorted(ATTRIBUTES["texture"])
    assert Counter(label for _, label in files) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert len({path.read_bytes() for path, _ in files}) == 8
    with pytest.raises(UnknownNameError, match=r"unknown attribute 'shap'\. Did you mean 'shape'"):
        write_class_folder(tmp_path, "shap")
