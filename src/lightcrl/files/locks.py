"""One writer per folder, on this machine and over a shared network folder.

A writer keeps two files in its folder and removes them when it is done:

    .lightcrl.lock      a lease of `filelock`, touched every `HEARTBEAT` seconds
    .lightcrl.holder    process, host, since when, by which command

The lease is a plain file, created exclusively, so it also holds where a network file system has no `flock`. The lease
of a process of this host that has ended (its number is free, or another process has it now) is taken over at once. The
lease of another host is taken over when nobody has touched it for `LEASE` seconds, by the clock of the process that
waits: clocks need not agree. Only one of several takers wins. A process that was stopped for so long finds its lock
lost when it resumes, and ends.

Object stores have no such files: who writes to a URI locks the local mirror of it (`folders.local_place`), which keeps
processes of one machine apart, and no others.
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
# Seconds between two touches of a lease, and seconds without one after which its holder counts as dead. File servers
# may show a touch a minute late.
HEARTBEAT = 10.0
LEASE = 120.0
# Seconds between two looks at a folder that is taken.
POLL = 0.1
ENDED = -1
# Characters of a command that are recorded.
COMMAND = 200


Touched: TypeAlias = tuple[int, int]
"""Which file a lease is, and when it was touched last, by the file server's clock."""


@dataclass(frozen=True)
class Holder:
    """The process that writes a folder.

    Attributes:
        pid: number of the process.
        host: name of its machine.
        since: date and time in UTC; empty if it has not said yet, as what follows.
        command: its command line.
        place: machine, its start, and namespace of the number.
        start: when the process started, in ticks of its machine; None where the system does not tell.
    """

    pid: int
    host: str
    since: str = ""
    command: str = ""
    place: str = ""
    start: int | None = None

    @property
    def lives(self) -> bool | None:
        """Whether the process runs; None where this cannot be told from here."""
        if self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
        start = _start(self.pid)
        return start != ENDED and (None in (start, self.start) or start == self.start)

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        command = f" ({self.command})" if self.command else ""
        return f"process {self.pid} on {self.host}{since}{command}"


@dataclass(frozen=True)
class Hold:
    """A folder that this process alone writes.

    Attributes:
        folder: the folder.
    """

    folder: Path
    _lease: SoftFileLease

    def check(self) -> None:
        """Return if the folder is still this process's to write.

        Raises:
            LockedError: the process was stopped for so long that another one took the folder over.
        """
        if self._lease.compromise is not None:
            raise LockedError(
                f"{self.folder} is no longer written by this process: it showed no sign of life for {LEASE:.0f} s (was "
                "it stopped, or the network gone?), so its lock was taken over or removed. Run the same command again: "
                "it resumes from what is complete."
            )

    def guard(self, tell: Tell) -> Tell:
        """`tell`, which first checks the hold: a process whose lock is lost stops at its next event."""

        def told(event: Mapping[str, Any]) -> None:
            self.check()
            tell(event)

        return told


@contextmanager
def only_writer(
    folder: Path, tell: Tell = lambda event: None, instead: str = "choose another folder with --output"
) -> Iterator[Hold]:
    """Write a folder alone; a folder that another process writes is refused.

    Whether a holder on another host lives shows within `HEARTBEAT` seconds, or it does not within `LEASE`.

    Args:
        folder: made if it is not there.
        tell: called with `waiting` where a holder on another host has to be watched.
        instead: what else to do than to wait, for the message.

    Raises:
        LockedError: another process writes the folder, or this one has lost it.
        StorageError: the folder cannot be written.
    """
    with _held(folder, tell, instead) as hold:
        yield hold
        hold.check()


@contextmanager
def in_turn(folder: Path, tell: Tell = lambda event: None) -> Iterator[Hold]:
    """Write a folder when no other process does; what the other one has made is there by then.

    Args:
        folder: made if it is not there.
        tell: called once with `waiting` if another process writes the folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    with _held(folder, tell, None) as hold:
        yield hold


def holder(folder: Path) -> Holder | None:
    """Who writes a folder, dead or alive; None if nobody does."""
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
    """Take the lease; with `instead`, only one whose holder is dead."""
    told, dead = False, 0
    first = seen = _touched(folder)
    began = since = time.monotonic()
    while not _try(folder, lease):
        now, known = _touched(folder), _holder(folder, lease)
        if now != seen:
            seen, since = now, time.monotonic()
        if (known is not None and known.lives is False) or time.monotonic() - since > LEASE + HEARTBEAT:
            # filelock takes over by an exchange of names, which network file systems do not have.
            dead += 1
            if dead > 1:
                _remove(folder, seen)
            time.sleep(POLL if dead > 2 else 0)
            continue
        if instead is not None and known is not None and (known.lives or seen != first):
            raise LockedError(f"{folder} is being written by {known}. Wait for it to end, or {instead}.")
        # Without a name it was released just now, is not written yet, or was lost with its machine.
        if not told and ((known is not None and known.since) or time.monotonic() - began > 1):
            tell({"event": "waiting", "folder": str(folder), "holder": str(known or "an unnamed process")})
            told = True
        time.sleep(POLL)


def _try(folder: Path, lease: SoftFileLease) -> bool:
    """Take the lease if it is free or its holder dead."""
    with clear_errors(folder):
        try:
            lease.acquire(blocking=False)
        except Timeout:
            return False
        except LeaseSettingsMismatch:
            # Another version of this library, with other times: it can be waited for, but not taken over.
            return False
    return True


def _remove(folder: Path, seen: Touched | None) -> None:
    """Remove a dead holder's lease unless it has changed since it was `seen`; one process at a time does so."""
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
    """The state of the lease; the file is opened, so that no cache answers."""
    with suppress(OSError), (folder / LOCK).open("rb") as stream:
        found = os.fstat(stream.fileno())
        return found.st_ino, found.st_mtime_ns
    return None


def _sign(folder: Path, lease: SoftFileLease) -> None:
    """Write who holds the lease."""
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
        found: dict[str, Any] = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"token": None}
    return found


def _holder(folder: Path, lease: SoftFileLease) -> Holder | None:
    owner = lease.owner
    if owner is None:
        return None
    signed = _signature(folder)
    if signed.pop("token") == owner.token:
        return Holder(**signed)
    # It has not signed yet. filelock adds to the name where containers share one.
    return Holder(owner.pid, owner.hostname.partition("?")[0])


def _place() -> str:
    """What has to be equal for numbers of processes to mean the same: machine, its start, namespace."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{socket.gethostname()} {boot} {namespace}"


def _start(pid: int) -> int | None:
    """When a process started, in ticks; `ENDED` for one that only waits for its parent, None where nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] == "Z" else int(fields[19])
