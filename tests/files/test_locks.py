"""One process writes a folder: others are refused or wait, and one of them succeeds the dead. With real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightcrl.errors import LockedError, StorageError
from lightcrl.files import locks
from lightcrl.files.locks import HOLDER, LOCK, Holder, holder, in_turn, only_writer

# Two seconds in place of two minutes; `elsewhere` gives the process another machine's name.
START = """
import os, socket, sys, time
from pathlib import Path
from lightcrl.files import locks
locks.HEARTBEAT, locks.LEASE, locks.POLL = 0.2, 1.5, 0.02
folder = Path(sys.argv[1])
def elsewhere():
    socket.gethostname = lambda: "elsewhere"
def cannot_exchange():
    from filelock._soft._exclusive import _recovery
    _recovery.exchange_names = lambda source, target: False
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
"""
HOLD = "with locks.only_writer(folder):\n    print('held', flush=True)\n    wait_for('end')\n"
TAKE = "with locks.only_writer(folder, lambda event: print('waits', flush=True)):\n    print('taken', flush=True)\n"
RACE = """
(folder / f"ready-{os.getpid()}").touch()
wait_for("go")
try:
    with locks.only_writer(folder):
        (folder / "winners").open("a").write(f"{os.getpid()}\\n")
        time.sleep(0.5)
except locks.LockedError:
    print("refused")
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HEARTBEAT", 0.2), ("LEASE", 1.5), ("POLL", 0.02)):
        monkeypatch.setattr(locks, name, value)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list[subprocess.Popen[str]], text: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START + text, str(folder)]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes[-1]


def holding(processes: list[subprocess.Popen[str]], folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that holds the folder until a file `end` is there."""
    process = start(processes, f"{before}\n{HOLD}", folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n", process.communicate()[1]
    return process


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_is_refused_with_the_holders_name_and_the_first_is_not_disturbed(tmp_path, processes):
    first = holding(processes, tmp_path)
    began = time.monotonic()
    with pytest.raises(LockedError) as refused, only_writer(tmp_path):
        raise AssertionError
    assert time.monotonic() - began < 0.2
    found = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "DATE", str(refused.value))
    assert found == (
        f"{tmp_path} is being written by process {first.pid} on {socket.gethostname()} since DATE (-c {tmp_path}). "
        "Wait for it to end, or choose another folder with --output."
    )
    assert isinstance(refused.value, StorageError)
    assert refused.value.exit_code == 1
    (tmp_path / "end").touch()
    assert first.wait(timeout=10) == 0
    with only_writer(tmp_path):
        assert files(tmp_path) == [HOLDER, LOCK, "end"]
        known = holder(tmp_path)
        assert isinstance(known, Holder)
        assert (known.pid, known.lives) == (os.getpid(), True)
    assert files(tmp_path) == ["end"]
    assert holder(tmp_path) is None


def test_the_second_waits_with_one_line_and_goes_on_when_the_first_is_done(tmp_path, processes):
    first = holding(processes, tmp_path)
    told = []

    def tell(event):
        told.append(event)
        time.sleep(0.3)
        (tmp_path / "end").touch()

    with in_turn(tmp_path, tell):
        assert first.wait(timeout=10) == 0
        known = holder(tmp_path)
        assert known is not None
        assert known.pid == os.getpid()
    ((event),) = told
    assert (event["event"], event["folder"]) == ("waiting", str(tmp_path))
    assert event["holder"].startswith(f"process {first.pid} on {socket.gethostname()} since 20")


@pytest.mark.parametrize("before", ["", "cannot_exchange()"])
@pytest.mark.parametrize("buried", [True, False])
def test_a_killed_holder_of_this_machine_is_succeeded_at_once(tmp_path, processes, before, buried):
    """Also where names cannot be exchanged, as on network file systems, and before its parent has asked for its end."""
    first = holding(processes, tmp_path)
    first.send_signal(signal.SIGKILL)
    if buried:
        first.wait()
    else:
        time.sleep(0.1)
    second = start(processes, f"{before}\n{TAKE}", tmp_path)
    assert second.communicate(timeout=10) == ("taken\n", "")
    assert files(tmp_path) == []


def test_a_number_that_another_process_has_now_does_not_count_as_the_holders(tmp_path, processes):
    first, other = holding(processes, tmp_path), holding(processes, tmp_path / "other")
    first.kill()
    first.wait()
    for name, pattern in ((LOCK, "pid={}\n"), (HOLDER, '"pid": {},')):
        text = (tmp_path / name).read_text()
        assert pattern.format(first.pid) in text
        (tmp_path / name).write_text(text.replace(pattern.format(first.pid), pattern.format(other.pid)))
    with only_writer(tmp_path):
        known = holder(tmp_path)
        assert known is not None
        assert known.pid == os.getpid()


@pytest.mark.parametrize("before", ["", "cannot_exchange()"])
def test_a_holder_on_another_machine_is_succeeded_when_its_heart_has_stopped(tmp_path, processes, before):
    first = holding(processes, tmp_path, "elsewhere()")
    first.kill()
    first.wait()
    began = time.monotonic()
    second = start(processes, f"{before}\n{TAKE}", tmp_path)
    assert second.communicate(timeout=10) == ("waits\ntaken\n", "")
    assert 1.5 < time.monotonic() - began < 4
    assert files(tmp_path) == []


def test_a_holder_on_another_machine_whose_heart_beats_is_left_alone(tmp_path, processes):
    first = holding(processes, tmp_path, "elsewhere()")
    told: list[object] = []
    began = time.monotonic()
    message = f"is being written by process {first.pid} on elsewhere since"
    with pytest.raises(LockedError, match=message), only_writer(tmp_path, told.append):
        raise AssertionError
    assert time.monotonic() - began < 1
    assert len(told) == 1
    # And for as long as it beats, who waits does not take over.
    waits = start(processes, "with locks.in_turn(folder):\n    assert (folder / 'end').exists()\n", tmp_path)
    time.sleep(2.5)
    assert waits.poll() is None
    (tmp_path / "end").touch()
    assert (first.wait(timeout=10), waits.wait(timeout=10)) == (0, 0)


@pytest.mark.parametrize("before", ["", "cannot_exchange()"])
def test_of_two_takers_one_wins(tmp_path, processes, before):
    for _ in range(2):
        first = holding(processes, tmp_path)
        first.kill()
        first.wait()
        takers = [start(processes, f"{before}\n{RACE}", tmp_path) for _ in range(3)]
        while len(list(tmp_path.glob("ready-*"))) < 3:
            time.sleep(0.01)
        (tmp_path / "go").touch()
        said = [taker.communicate(timeout=10) for taker in takers]
        assert sorted(said) == [("", ""), ("refused\n", ""), ("refused\n", "")]
        assert len((tmp_path / "winners").read_text().split()) == 1
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_process_that_was_stopped_for_too_long_ends_at_its_next_event(tmp_path, processes):
    text = "with locks.only_writer(folder) as hold:\n    print('held', flush=True)\n    tell = hold.guard(print)\n"
    first = start(processes, f"{text}    while True:\n        tell('event')\n        time.sleep(0.05)\n", tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGSTOP)
    with in_turn(tmp_path):
        first.send_signal(signal.SIGCONT)
        _, error = first.communicate(timeout=10)
        assert f"LockedError: {tmp_path} is no longer written by this process" in error
        # It has removed nothing of its successor's.
        assert files(tmp_path) == [HOLDER, LOCK]
        known = holder(tmp_path)
        assert known is not None
        assert known.pid == os.getpid()


def test_an_empty_lease_as_a_crash_of_the_machine_leaves_it_is_taken_over_in_time(tmp_path):
    (tmp_path / LOCK).touch()
    told: list[dict[str, str]] = []
    began = time.monotonic()
    with only_writer(tmp_path, told.append):
        assert 1.5 < time.monotonic() - began < 3
    assert told == [{"event": "waiting", "folder": str(tmp_path), "holder": "an unnamed process"}]
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_reported_as_ever(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file stands where a folder is expected"), only_writer(tmp_path / "file"):
        raise AssertionError


def test_an_error_in_the_middle_leaves_the_folder_free(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path):
        raise ZeroDivisionError
    assert files(tmp_path) == []
