from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from lightcrl.data import DataSpec, Rejection, Row, load_dataset
from lightcrl.data.webdataset import Shards, TarSlice
from lightcrl.errors import DataError, ItemError, ModalityError

KINDS = {"image": "image", "text": "text"}


def write_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(*names: str) -> dict[str, bytes]:
    return {f"{name}.{kind}": f"{kind} of {name}".encode() for name in names for kind in ("jpg", "txt")}


def read(shards: Shards) -> dict[str, dict[str, object]]:
    return {
        row.key: {modality: [item.read() for item in items] for modality, items in row.cells.items()}
        for row in shards.rows()
        if isinstance(row, Row)
    }


def test_members_of_one_basename_are_a_sample(tmp_path: Path) -> None:
    members = {**samples("a", "dir/b"), "__pycache__/.keep": b"", "README": b"no extension"}
    shard = write_shard(tmp_path / "s.tar", members)
    assert read(Shards(KINDS, shard)) == {
        "s.tar/a": {"image": [b"jpg of a"], "text": ["txt of a"]},
        "s.tar/dir/b": {"image": [b"jpg of dir/b"], "text": ["txt of dir/b"]},
    }


def test_shards_are_named_by_braces_stars_or_folder(tmp_path: Path) -> None:
    for number in range(12):
        write_shard(tmp_path / f"s-{number:03}.tar", samples("a"))
    every = [f"s-{number:03}.tar/a" for number in range(12)]
    assert list(read(Shards(KINDS, tmp_path / "s-{000..011}.tar"))) == every
    assert list(read(Shards(KINDS, tmp_path / "s-*.tar"))) == every
    assert list(read(Shards(KINDS, tmp_path))) == every
    assert list(read(Shards(KINDS, tmp_path / "s-{002,00[4-5]}.tar"))) == [every[2], every[4], every[5]]


def test_shards_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_shard(tmp_path / split / "0.tar", samples("a"))
    spec = DataSpec(source="webdataset", train=str(tmp_path / "train"), dev=str(tmp_path / "dev/0.tar"))
    data = load_dataset(spec, KINDS)
    assert dict(zip(data.groups, data.splits, strict=True)) == {"train/0.tar/a": "train", "dev/0.tar/a": "dev"}
    assert list(read(Shards(KINDS, tmp_path / "{train,dev}/0.tar"))) == ["train/0.tar/a", "dev/0.tar/a"]


def test_columns_name_extensions_and_json_fields(tmp_path: Path) -> None:
    members = {
        "a.seg.png": b"outline",
        "a.png": b"picture",
        "a.json": json.dumps({"captions": ["one", "two"]}).encode(),
        "b.PNG": b"upper case",
        "b.json": b"{}",
    }
    shard = write_shard(tmp_path / "s.tar", members)
    columns = {"text": "json:captions", "outline": "seg.png"}
    assert read(Shards({**KINDS, "outline": "image"}, shard, columns)) == {
        "s.tar/a": {"image": [b"picture"], "text": ["one", "two"], "outline": [b"outline"]},
        "s.tar/b": {"image": [b"upper case"]},
    }


def test_media_are_not_read_until_they_are_wanted(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", samples("a"))
    (row,) = Shards(KINDS, shard).rows()
    assert isinstance(row, Row)
    item = row.cells["image"][0]
    assert item.raw == TarSlice(shard, 512, 8)
    shard.write_bytes(shard.read_bytes()[:515])
    with pytest.raises(ItemError, match=r"torn shard: s\.tar ends within a member"):
        item.read()
    shard.unlink()
    with pytest.raises(ItemError, match="missing shard"):
        item.read()


def test_texts_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    members = {"a.jpg": b"a", "a.txt": b"\xff", "b.jpg": b"b", "b.txt": b" \n", "c.jpg": b"c", "c.txt": b"good\n"}
    found = list(Shards(KINDS, write_shard(tmp_path / "s.tar", members)).rows())
    assert [(row.source, row.reason, row.modality) for row in found if isinstance(row, Rejection)] == [
        ("s.tar/a.txt", "text that is not UTF-8", "text"),
        ("s.tar/b.txt", "empty text", "text"),
    ]
    assert [sorted(row.cells) for row in found if isinstance(row, Row)] == [["image"], ["image"], ["image", "text"]]
    members = {"a.jpg": b"a", "a.json": b"{torn", "b.jpg": b"b", "b.json": b"[]", "c.json": b'{"t": 5}'}
    found = list(Shards(KINDS, write_shard(tmp_path / "j.tar", members), {"text": "json:t"}).rows())
    assert [row.reason for row in found if isinstance(row, Rejection)] == ["broken JSON", "broken JSON", "not a text"]


@pytest.mark.parametrize(
    ("length", "whole"),
    [
        (512 * 5 + 4, 2),  # within the second picture
        (512 * 4 + 100, 2),  # within its header
        (512 * 4, 2),  # between the two samples: no end mark
        (512 * 8, 4),  # after the last member: no end mark
        (512 * 3 + 2, 1),  # within the first text
    ],
)
def test_a_torn_shard_keeps_what_is_whole(length: int, whole: int, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", samples("a", "b"))
    shard.write_bytes(shard.read_bytes()[:length])
    *rows, last = Shards({"image": "image"}, shard).rows()
    assert isinstance(last, Rejection)
    assert (last.source, last.reason) == ("s.tar", "torn shard")
    assert f"{whole} " in last.detail
    assert [row.key for row in rows if isinstance(row, Row)] == ["s.tar/a", "s.tar/b"][: (whole + 1) // 2]


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", samples("a", "b"))
    data = bytearray(shard.read_bytes())
    data[512 * 4 : 512 * 4 + 20] = b"x" * 20
    shard.write_bytes(data)
    first, last = Shards(KINDS, shard).rows()
    assert isinstance(first, Row)
    assert isinstance(last, Rejection)
    assert last.detail == "no end mark at byte 2048; 2 members are whole"


def test_errors_say_what_is_expected(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "some/s-0.tar", samples("a"))
    write_shard(tmp_path / "s.tar.gz", samples("a"), "w:gz")
    (tmp_path / "none").mkdir()
    for path, message in (
        ("some/s-{0..1}.tar", r"s-1\.tar is not there\. Did you mean 's-0\.tar'"),
        ("some/*.tgz", r"found no tar files, only s-0\.tar"),
        ("none", "found no tar files, only nothing"),
        ("s.tar.gz", "is no tar file.*Expected an uncompressed one"),
    ):
        with pytest.raises(DataError, match=message):
            list(Shards(KINDS, tmp_path / path).rows())
    with pytest.raises(ModalityError, match=r"unknown extension 'text'\. Did you mean 'txt'\? Known: jpg, txt"):
        list(Shards(KINDS, shard, {"text": "text"}).rows())
    with pytest.raises(ModalityError, match=r"Expected one for modality 'noise'"):
        list(Shards({"noise": "audio"}, shard).rows())
