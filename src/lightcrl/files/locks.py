"""One writer per folder, on this machine and over a shared network folder.

A writer keeps two files in its folder and removes them when it is done:

    .lightcrl.lock      a lease of `filelock`, touched every `HEARTBEAT` seconds
    .lightcrl.holder    process, host, start time, command

The lease is a plain file, created exclusively, so it also works where a network file system has no `flock`. The lease
of an ended process of this host (its number is free, or belongs to another process now) is taken over at once. The
lease of another host is taken over when nobody has touched it for `LEASE` seconds, by the clock of the waiting
process: clocks need not agree. Only one of several takers wins. A process that was stopped for so long notices the loss
of its lock when it resumes, and ends.

Object stores have no such files: a writer to a URI locks its local mirror (`folders.local_place`), which separates
the processes of one machine, but not of several.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from lightcrl.errors import LockedError
from lightcrl.events import Tell
from lightcrl.files.local import clear_errors, make_folder, write_json

LOCK = ".lightcrl.lock"
HOLDER = ".lightcrl.holder"
TAKER = ".lightcrl.taker"
# Seconds between two touches of a lease, and seconds without a touch after which its holder counts as dead. File
# servers may show a touch a minute late.
HEARTBEAT = 10.0
LEASE = 120.0
UNSIGNED = 75.0
"""Seconds after which a lease that nobody has signed or touched belongs to a process that was killed in between."""
# Seconds between two checks of a taken folder.
POLL = 0.1
ENDED = -1
# Greatest number of recorded characters of a command.
COMMAND = 200


Touched: TypeAlias = tuple[int, int]
"""Identity of a lease's file, and its last touch by the file server's clock."""


@dataclass(frozen=True)
class Holder:
    """The process that writes to a folder.

    Attributes:
        pid: number of the process.
        host: name of its machine.
        since: date and time in UTC; empty if not recorded yet, like the following fields.
        command: its command line.
        place: machine, its boot, and the namespace of the number.
        start: start of the process, in ticks of its machine; None if the system does not provide it.
    """

    pid: int
    host: str
    since: str = ""
    command: str = ""
    place: str = ""
    start: int | None = None

    @property
    def lives(self) -> bool | None:
        """True if the process runs; None if this is unknown on this host."""
        if self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's process
            pass
        start = _start(self.pid)
        return start != ENDED and (None in (start, self.start) or start == self.start)

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        command = f" ({self.command})" if self.command else ""
        return f"process {self.pid} on {self.host}{since}{command}"


@dataclass(frozen=True)
class Hold:
    """A folder that only this process writes to.

    Attributes:
        folder: the folder.
    """

    folder: Path
    _lease: SoftFileLease

    def check(self) -> None:
        """Return if the folder still belongs to this process.

        Raises:
            LockedError: the process was stopped for so long that another process took the folder over.
        """
        if self._lease.compromise is not None:
            raise LockedError(
                f"{self.folder} is no longer written by this process: it showed no sign of life for {LEASE:.0f} s (was "
                "it stopped, or the network gone?), so its lock was taken over or removed. Run the same command again: "
                "it resumes from what is complete."
            )

    def guard(self, tell: Tell) -> Tell:
        """Return `tell` with a check of the hold first: a process without its lock stops at its next event."""

        def told(event: Mapping[str, Any]) -> None:
            self.check()
            tell(event)

        return told


@contextmanager
def only_writer(
    folder: Path, tell: Tell = lambda event: None, instead: str = "choose another folder with --output"
) -> Iterator[Hold]:
    """Hold a folder for writing; a folder that another process writes to is refused.

    A holder on another host is recognised as alive within `HEARTBEAT` seconds, or as dead after `LEASE` seconds.

    Args:
        folder: folder to write to; it is created if needed.
        tell: function that is called with `waiting` if a holder on another host has to be watched.
        instead: alternative to waiting, for the message.

    Raises:
        LockedError: another process writes to the folder, or this process has lost it.
        StorageError: the folder cannot be written.
    """
    with _held(folder, tell, instead) as hold:
        yield hold
        hold.check()


@contextmanager
def in_turn(folder: Path, tell: Tell = lambda event: None) -> Iterator[Hold]:
    """Wait until no other process writes to a folder, and hold it; the other's results are complete then.

    Args:
        folder: folder to write to; it is created if needed.
        tell: function that is called once with `waiting` if another process writes to the folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    with _held(folder, tell, None) as hold:
        yield hold


def holder(folder: Path) -> Holder | None:
    """Return the holder of a folder, dead or alive; None if there is no holder."""
    return _holder(folder, _lease(folder))


def _lease(folder: Path) -> SoftFileLease:
    return SoftFileLease(folder / LOCK, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, thread_local=False)


@contextmanager
def _held(folder: Path, tell: Tell, instead: str | None) -> Iterator[Hold]:
    make_folder(folder)
    lease = _lease(folder)
    _acquire(folder, lease, tell, instead)
    try:
        _sign(folder, lease)
        yield Hold(folder, lease)
    finally:
        with suppress(OSError):
            if lease.token is not None and _signature(folder)["token"] == lease.token:
                (folder / HOLDER).unlink()
        with suppress(OSError):  # the folder may be gone
            lease.release()


def _acquire(folder: Path, lease: SoftFileLease, tell: Tell, instead: str | None) -> None:
    """Take the lease; with `instead`, only if its holder is dead."""
    told, dead = False, 0
    first = seen = _touched(folder)
    began = since = time.monotonic()
    while not _try(folder, lease):
        now, current = _touched(folder), _holder(folder, lease)
        if now != seen:
            seen, since = now, time.monotonic()
        limit = min(UNSIGNED, LEASE + HEARTBEAT) if current is None else LEASE + HEARTBEAT
        if (current is not None and current.lives is False) or time.monotonic() - since > limit:
            # filelock takes over by an exchange of names, which network file systems lack.
            dead += 1
            if dead > 1:
                _remove(folder, seen)
            time.sleep(POLL if dead > 2 else 0)
            continue
        if instead is not None and current is not None and (current.lives or seen != first):
            raise LockedError(f"{folder} is being written by {current}. Wait for it to end, or {instead}.")
        # A lease without a holder was released just now, is not signed yet, or was lost with its machine.
        if not told and ((current is not None and current.since) or time.monotonic() - began > 1):
            tell({"event": "waiting", "folder": str(folder), "holder": str(current or "an unnamed process")})
            told = True
        time.sleep(POLL)


def _try(folder: Path, lease: SoftFileLease) -> bool:
    """Take the lease if it is free or its holder is dead, and return true on success."""
    with clear_errors(folder):
        try:
            lease.acquire(blocking=False)
        except Timeout:
            return False
        except LeaseSettingsMismatch:
            # Another version of this library has other times: its lease is waited for, but not taken over.
            return False
    return True


def _remove(folder: Path, seen: Touched | None) -> None:
    """Remove a dead holder's lease unless it has changed since it was `seen`; a single process at a time does so."""
    guard = folder / TAKER
    with clear_errors(folder):
        try:
            guard.touch(exist_ok=False)
        except FileExistsError:
            with suppress(FileNotFoundError):  # left by a process that died in the lines below
                if abs(time.time() - guard.stat().st_mtime) > LEASE:
                    guard.unlink()
            return
        try:
            if _touched(folder) == seen:
                (folder / LOCK).unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)


def _touched(folder: Path) -> Touched | None:
    """Return the state of the lease; the file is opened to bypass caches."""
    with suppress(OSError), (folder / LOCK).open("rb") as stream:
        status = os.fstat(stream.fileno())
        return status.st_ino, status.st_mtime_ns
    return None


def _sign(folder: Path, lease: SoftFileLease) -> None:
    """Write the holder of the lease."""
    holder = Holder(
        os.getpid(),
        socket.gethostname(),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:COMMAND],
        _place(),
        _start(os.getpid()),
    )
    write_json(folder / HOLDER, {"token": lease.token, **asdict(holder)})


def _signature(folder: Path) -> dict[str, Any]:
    try:
        signature: dict[str, Any] = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"token": None}
    return signature


def _holder(folder: Path, lease: SoftFileLease) -> Holder | None:
    owner = lease.owner
    if owner is None:
        return None
    signed = _signature(folder)
    if signed.pop("token") == owner.token:
        return Holder(**signed)
    # The holder has not signed yet. filelock adds to the name where containers share one.
    return Holder(owner.pid, owner.hostname.partition("?")[0])


def _place() -> str:
    """Return the scope of process numbers: machine, its boot, namespace."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{socket.gethostname()} {boot} {namespace}"


def _start(pid: int) -> int | None:
    """Return the start of a process in ticks; `ENDED` for a zombie, None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] == "Z" else int(fields[19])
