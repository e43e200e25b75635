"""What holds for every source of the table `SOURCES`; a new one needs a case here, and has these tests."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightcrl.data import SOURCES, Dataset, DataSpec, Rejection, Row, load_dataset, open_sources
from lightcrl.data.groups import collect
from lightcrl.data.synthetic import ATTRIBUTES, write_class_folder, write_table
from lightcrl.errors import DataError, TooManyRejectedError

GROUPS = 8
KINDS = {"photo": "image", "noise": "audio", "words": "text"}
COLUMNS = {"photo": "image", "noise": "audio", "words": "text"}


@dataclass(frozen=True)
class Case:
    """How a source is given eight groups below a folder, and how one item of theirs is broken."""

    make: Callable[[Path], DataSpec]
    kinds: dict[str, str]
    items: dict[str, int]  # unique ones, by modality
    spoil: Callable[[Path], str] | None = None  # returns the reason that is expected


def read_world(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in write_table(folder, GROUPS, seed=3).read_text().splitlines()]


def make_table(folder: Path) -> DataSpec:
    return DataSpec(path=str(write_table(folder, GROUPS, seed=3)), columns=COLUMNS)


def remove_first_picture(folder: Path) -> str:
    (folder / "images/000000.png").unlink()
    return "missing file"


def make_folder(folder: Path) -> DataSpec:
    return DataSpec(source="folder", path=str(write_class_folder(folder, "shape", per_class=1)))


def add_notes(folder: Path) -> str:
    (folder / "circle/notes.doc").write_text("not for you")
    return "not a picture or sound"


def make_hub(folder: Path) -> DataSpec:
    import datasets

    rows = read_world(folder / "files")

    def stored(name: str) -> dict[str, Any]:
        return {"bytes": (folder / "files" / name).read_bytes(), "path": Path(name).name}

    columns = {
        "image": [stored(row["image"]) for row in rows],
        "audio": [stored(row["audio"]) for row in rows],
        "text": [
            ["", *row["text"]] if (folder / "spoilt").exists() and not n else row["text"] for n, row in enumerate(rows)
        ],
    }
    data = datasets.Dataset.from_dict(columns)
    data = data.cast_column("image", datasets.Image()).cast_column("audio", datasets.Audio())
    data.save_to_disk(str(folder / "saved"))
    return DataSpec(source="hub", path=str(folder / "saved"), columns=COLUMNS)


def empty_hub_caption(folder: Path) -> str:
    (folder / "spoilt").touch()
    make_hub(folder)
    return "empty text"


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def make_shards(folder: Path) -> DataSpec:
    rows = read_world(folder / "files")
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard:03}.tar", "w") as tar:
            for number, row in enumerate(rows[shard::2]):
                add_member(tar, f"{number:04}.png", (folder / "files" / row["image"]).read_bytes())
                add_member(tar, f"{number:04}.wav", (folder / "files" / row["audio"]).read_bytes())
                add_member(tar, f"{number:04}.json", json.dumps({"captions": row["text"]}).encode())
    return DataSpec(source="webdataset", path=str(folder / "shard-{000..001}.tar"), columns={"words": "json:captions"})


def tear_shard(folder: Path) -> str:
    shard = folder / "shard-001.tar"
    shard.write_bytes(shard.read_bytes()[:-30_000])
    return "torn shard"


def make_synthetic(folder: Path) -> DataSpec:
    return DataSpec(source="synthetic", options={"groups": GROUPS, "seed": 3})


def make_arrays(folder: Path) -> DataSpec:
    """The numbers 0 to 7 as vectors, and as words in the table beside them."""
    vectors = np.arange(GROUPS, dtype=np.float32)[:, None] + np.zeros(3, np.float32)
    (folder / "photo_emb").mkdir(exist_ok=True)
    for part in range(2):
        np.save(folder / f"photo_emb/{part}.npy", vectors[part::2])
    lines = [f"number {number}" for part in range(2) for number in range(part, GROUPS, 2)]
    (folder / "captions.csv").write_text("\n".join(["words", *lines]))
    return DataSpec(source="vectors", path=str(folder))


def empty_caption(folder: Path) -> str:
    table = folder / "captions.csv"
    table.write_text(table.read_text().replace("number 3", '" "'))
    return "empty text"


FULL = {"photo": GROUPS, "noise": GROUPS, "words": 24}
CASES = {
    "table": Case(make_table, KINDS, FULL, remove_first_picture),
    "folder": Case(make_folder, {"photo": "image", "words": "text"}, {"photo": 8, "words": 8}, add_notes),
    "hub": Case(make_hub, KINDS, FULL, empty_hub_caption),
    "webdataset": Case(make_shards, KINDS, FULL, tear_shard),
    "vectors": Case(make_arrays, {"photo": "vectors", "words": "text"}, {"photo": 8, "words": 8}, empty_caption),
    "synthetic": Case(make_synthetic, KINDS, FULL),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=[name for name, case in CASES.items() if case.spoil])
def spoilt(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, DataSpec, str]:
    """A case of which one item is broken, and the reason that is expected."""
    case = CASES[request.param]
    spec = case.make(tmp_path)
    assert load_dataset(spec, case.kinds).rejected == []
    assert case.spoil is not None
    return case, spec, case.spoil(tmp_path)


def all_rows(spec: DataSpec, kinds: dict[str, str]) -> list[Row | Rejection]:
    return [row for _, source in open_sources(spec, kinds) for row in source.rows()]


def content(data: Dataset) -> dict[str, dict[str, set[str]]]:
    """Group to modality to item keys."""
    return {
        name: {
            modality: {data.items[modality][item].key for item, group in links if group == number}
            for modality, links in data.links.items()
        }
        for number, name in enumerate(data.groups)
    }


def test_every_source_has_a_case() -> None:
    assert list(CASES) == list(SOURCES), "a source of SOURCES has no case here"


def test_rows_are_the_same_twice(case: Case, tmp_path: Path) -> None:
    spec = case.make(tmp_path)
    first, second = all_rows(spec, case.kinds), all_rows(spec, case.kinds)
    assert [str(row) for row in first if isinstance(row, Rejection)] == []
    for one, other in zip(first, second, strict=True):
        assert isinstance(one, Row)
        assert isinstance(other, Row)
        assert (one.key, one.split) == (other.key, other.split)
        assert {modality: [(item.key, item.source) for item in items] for modality, items in one.cells.items()} == {
            modality: [(item.key, item.source) for item in items] for modality, items in other.cells.items()
        }


def test_groups_and_items_are_counted_once(case: Case, tmp_path: Path) -> None:
    data = load_dataset(case.make(tmp_path), case.kinds)
    assert len(data.groups) == len(set(data.groups)) == GROUPS
    assert {modality: len(items) for modality, items in data.items.items()} == case.items
    assert data.rejected == []
    for modality, links in data.links.items():
        assert len({item.key for item in data.items[modality]}) == len(data.items[modality])
        assert links.tolist() == sorted(links.tolist())
        assert set(links[:, 0]) == set(range(len(data.items[modality])))
        assert set(links[:, 1]) == set(range(GROUPS))


def test_items_are_what_an_encoder_takes(case: Case, tmp_path: Path) -> None:
    data = load_dataset(case.make(tmp_path), case.kinds)
    for modality, items in data.items.items():
        for item in items:
            raw = item.read()
            if case.kinds[modality] == "text":
                assert isinstance(raw, str)
                assert raw.strip() == raw != ""
            elif case.kinds[modality] == "image":
                picture = (
                    raw
                    if isinstance(raw, Image.Image)
                    else Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
                )
                assert picture.size == (96, 96)
                assert np.asarray(picture).std() > 5
            elif case.kinds[modality] == "vectors":
                assert (raw.dtype, raw.shape) == (np.float32, (3,))
            elif isinstance(raw, tuple):
                samples, rate = raw
                assert rate == 16_000
                assert samples.dtype == np.float32
                assert samples.ndim == 1
            else:
                assert (raw if isinstance(raw, bytes) else Path(raw).read_bytes())[:4] == b"RIFF"


def test_items_travel_between_processes(case: Case, tmp_path: Path) -> None:
    for items in load_dataset(case.make(tmp_path), case.kinds).items.values():
        data = pickle.dumps(items)
        for one, other in zip(items, pickle.loads(data), strict=True):
            assert (one.key, one.source) == (other.key, other.source)
            assert pickle.dumps(one.read()) == pickle.dumps(other.read())
        # What items say, and where their bytes are, but not the bytes.
        assert len(data) < 1500 * len(items)


def test_the_right_things_are_together(case: Case, tmp_path: Path) -> None:
    """The caption of a group is about its picture: its shape is told by the first world's captions."""
    data = load_dataset(case.make(tmp_path), case.kinds)
    if case.kinds["photo"] == "vectors":
        for item, group in data.links["photo"].tolist():
            texts = [data.items["words"][text].read() for text, same in data.links["words"].tolist() if same == group]
            assert texts == [f"number {data.items['photo'][item].read()[0]:.0f}"]
        return
    if "noise" not in case.kinds:  # a class folder: the class of the text is the folder of the picture
        for (photo, group), (words, same) in zip(
            data.links["photo"], sorted(data.links["words"], key=lambda p: p[1]), strict=True
        ):
            assert group == same
            assert Path(data.items["photo"][photo].source).parent.name == data.items["words"][words].read()
        assert {item.read() for item in data.items["words"]} == set(ATTRIBUTES["shape"])
        return
    world = load_dataset(make_synthetic(tmp_path), KINDS)
    texts = [
        {data.items["words"][item].read() for item, group in data.links["words"] if group == n} for n in range(GROUPS)
    ]
    expected = [
        {world.items["words"][item].read() for item, group in world.links["words"] if group == n} for n in range(GROUPS)
    ]
    assert sorted(map(sorted, texts)) == sorted(map(sorted, expected))
    for number, words in enumerate(texts):
        twin = expected.index(words)
        assert first_pixels(data, number) == first_pixels(world, twin)


def first_pixels(data: Dataset, group: int) -> list[list[int]]:
    raw = next(data.items["photo"][item] for item, number in data.links["photo"] if number == group).read()
    picture = raw if isinstance(raw, Image.Image) else Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
    pixels: list[list[int]] = np.asarray(picture)[0, :5].tolist()
    return pixels


ALONE = [
    (name, modality)
    for name, case in CASES.items()
    for modality in case.kinds
    if (name, modality) != ("folder", "words")
]


@pytest.mark.parametrize(("name", "modality"), ALONE)
def test_a_modality_may_be_left_alone(name: str, modality: str, tmp_path: Path) -> None:
    case = CASES[name]
    kinds = {modality: case.kinds[modality]}
    spec = case.make(tmp_path)
    spec = spec.model_copy(update={"columns": {key: value for key, value in spec.columns.items() if key in kinds}})
    data = load_dataset(spec, kinds)
    assert list(data.items) == list(kinds)
    assert [len(data.items[modality]) for modality in kinds] == [case.items[modality] for modality in kinds]


def test_splits_do_not_depend_on_the_order_of_rows(case: Case, tmp_path: Path) -> None:
    rows = all_rows(case.make(tmp_path), case.kinds)
    fractions = {"dev": 0.3, "test": 0.3}
    one, other = collect(rows, case.kinds, fractions=fractions), collect(rows[::-1], case.kinds, fractions=fractions)
    assert dict(zip(one.groups, one.splits, strict=True)) == dict(zip(other.groups, other.splits, strict=True))
    assert content(one) == content(other)


def test_what_is_broken_is_set_aside(spoilt: tuple[Case, DataSpec, str]) -> None:
    case, spec, reason = spoilt
    data = load_dataset(spec.model_copy(update={"max_rejected": 0.5}), case.kinds)
    assert {rejection.reason for rejection in data.rejected} == {reason}
    assert all(rejection.source for rejection in data.rejected)
    assert sum(len(items) for items in data.items.values()) >= 0.6 * sum(case.items.values())


def test_strict_stops_at_what_is_broken(spoilt: tuple[Case, DataSpec, str]) -> None:
    case, spec, reason = spoilt
    with pytest.raises(DataError, match=rf"{reason}.*strict = false"):
        load_dataset(spec.model_copy(update={"strict": True}), case.kinds)


def test_too_much_that_is_broken_stops(spoilt: tuple[Case, DataSpec, str]) -> None:
    case, spec, reason = spoilt
    with pytest.raises(TooManyRejectedError, match=rf"1 of \d+ items .* 1 {reason}"):
        load_dataset(spec.model_copy(update={"max_rejected": 0.0}), case.kinds)


@pytest.mark.parametrize("name", [name for name in CASES if name != "synthetic"])
def test_a_missing_path_is_named(name: str, tmp_path: Path) -> None:
    spec = DataSpec(source=name, path=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere.*[Ee]xpected"):
        load_dataset(spec, CASES[name].kinds)
