"""Files and folders are whole or not there, at whatever moment a writer dies."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from lightcrl.errors import StorageError
from lightcrl.files.local import (
    clear_errors,
    file_digest,
    make_folder,
    recover_folder,
    whole_file,
    whole_folder,
    write_json,
)


class Killed(BaseException):
    """Stands for a process that ends here."""


def die_after(written: int) -> None:
    assert written
    raise Killed


def fill(folder: Path, text: str) -> None:
    with whole_folder(folder) as fresh:
        (fresh / "a").write_text(text)
        (fresh / "b").write_text(text)


def read(folder: Path) -> set[str]:
    """What the folder's files say; one word if it is whole."""
    return {(folder / name).read_text() for name in "ab"}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.tmp"))


def die_before_move(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    moves = iter(range(100))
    replace = Path.replace

    def move(self: Path, target: Path) -> Path:
        if next(moves) == number:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", move)


def test_a_file_takes_the_formers_place_in_one_step(tmp_path):
    path = tmp_path / "figures"
    path.write_text("former")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "former"
    assert path.read_text() == "new"
    assert leftovers(tmp_path) == []


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "figures"
    path.write_text("former")
    with pytest.raises(Killed), whole_file(path) as temporary:
        die_after(temporary.write_text("half"))
    assert path.read_text() == "former"
    assert leftovers(tmp_path) == []


def test_a_folder_takes_the_formers_place(tmp_path):
    fill(tmp_path / "best", "former")
    fill(tmp_path / "best", "new")
    assert read(tmp_path / "best") == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_files_of_the_former_folder_do_not_survive_in_the_new_one(tmp_path):
    fill(tmp_path / "best", "former")
    (tmp_path / "best" / "extra").touch()
    fill(tmp_path / "best", "new")
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["a", "b"]


def test_a_folder_is_made_with_those_above_it(tmp_path):
    fill(tmp_path / "runs" / "one" / "best", "new")
    assert read(tmp_path / "runs" / "one" / "best") == {"new"}


def test_a_failed_write_leaves_the_former_folder(tmp_path):
    fill(tmp_path / "best", "former")
    with pytest.raises(Killed), whole_folder(tmp_path / "best") as fresh:
        die_after((fresh / "a").write_text("half"))
    assert read(tmp_path / "best") == {"former"}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("move", "survivor"), [(0, "former"), (1, "former"), (2, "new")])
def test_a_folder_whose_writer_dies_between_moves_is_recovered(tmp_path, monkeypatch, move, survivor):
    best = tmp_path / "best"
    fill(best, "former")
    with monkeypatch.context() as patch:
        die_before_move(patch, move)
        with pytest.raises(Killed):
            fill(best, "new")
    recover_folder(best)
    assert read(best) == {survivor}
    recover_folder(best)
    assert read(best) == {survivor}
    fill(best, "next")
    assert read(best) == {"next"}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("move", "there"), [(0, False), (1, True)])
def test_a_first_folder_whose_writer_dies_is_whole_or_not_there(tmp_path, monkeypatch, move, there):
    with monkeypatch.context() as patch:
        die_before_move(patch, move)
        with pytest.raises(Killed):
            fill(tmp_path / "best", "new")
    recover_folder(tmp_path / "best")
    assert (tmp_path / "best").exists() == there
    fill(tmp_path / "best", "next")
    assert read(tmp_path / "best") == {"next"}
    assert leftovers(tmp_path) == []


def test_the_former_folder_comes_back_if_nothing_newer_is_whole(tmp_path):
    fill(tmp_path / "best.old.tmp", "former")
    recover_folder(tmp_path / "best")
    assert read(tmp_path / "best") == {"former"}


def test_recovering_where_nothing_was_does_nothing(tmp_path):
    recover_folder(tmp_path / "best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "read-only"),
    ],
)
@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_refusal_of_the_disk_names_the_path_the_reason_and_a_way_out(tmp_path, number, reason, writer):
    target = tmp_path / "store"
    with pytest.raises(StorageError, match=reason) as error, writer(target) as temporary:
        raise OSError(number, "refused", str(temporary))
    assert str(target) in str(error.value)
    assert not target.exists()
    assert leftovers(tmp_path) == []


def test_a_refusal_without_a_file_name_names_the_target(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*store: the disk is full"), clear_errors(tmp_path / "store"):
        raise OSError(errno.ENOSPC, "refused")


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), clear_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(KeyError), clear_errors(tmp_path):
        raise KeyError("not the disk's")


def test_a_file_in_a_folders_place_is_said(tmp_path):
    (tmp_path / "file").touch()
    for attempt in (
        lambda: make_folder(tmp_path / "file"),
        lambda: make_folder(tmp_path / "file" / "below"),
        lambda: fill(tmp_path / "file" / "below", "new"),
        lambda: write_json(tmp_path / "file" / "below", {}),
    ):
        with pytest.raises(StorageError, match="a file stands where a folder is expected"):
            attempt()


def test_making_a_folder_twice_is_no_error(tmp_path):
    assert make_folder(make_folder(tmp_path / "a" / "b")).is_dir()


def test_json_is_readable_keeps_its_order_and_its_letters(tmp_path):
    value = {"b": [1, 2.5, None], "a": "Zürich"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert "Zürich" in text
    assert text.index('"b"') < text.index('"a"')


def test_a_value_that_is_not_json_leaves_the_former_file(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", object())
    assert (tmp_path / "x.json").read_text() == "1\n"
    assert leftovers(tmp_path) == []


def test_a_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"tokens" * 100_000)
    assert file_digest(path) == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    before = file_digest(path)
    path.write_bytes(b"tokens" * 99_999 + b"Tokens")
    assert file_digest(path) != before
