"""An SQLite file system that cuts the power, fills the disk and fails writes and syncs on demand.

    with FaultyVfs() as vfs:
        store = SqliteStore(path, SqliteOptions(vfs=vfs.name))
        vfs.fail("sync")                                 # the next sync of the write-ahead log
        ...
        vfs.cut_power(after=100)                         # in the middle of whatever comes
        ...
        vfs.crash(directory, seed=7)                     # what a power cut could leave

Everything it does follows from its arguments, so a seed replays. `seeds` hands them out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import Any, Literal, Self

import apsw

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

_LOG_FLAGS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_TRACKED_FLAGS = apsw.SQLITE_OPEN_MAIN_DB | _LOG_FLAGS
_SURVIVAL = (0.0, 0.3, 0.7, 0.95, 1.0)
_vfs_numbers = count(1)


def seeds(rounds: int) -> Iterator[int]:
    """The seeds of a randomized test, each printed before its round: 1 to `rounds`.

    The environment variable SEED=n makes it that one, to replay a failure; SOAK_MINUTES=n new ones
    every time, for so many minutes.
    """
    for seed in _seeds(rounds):
        print(f"SEED={seed}", flush=True)
        yield seed


def _seeds(rounds: int) -> Iterator[int]:
    if "SEED" in os.environ:
        yield int(os.environ["SEED"])
        return
    deadline = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES") or 0)
    yield from range(1, rounds + 1)
    while time.monotonic() < deadline:
        yield SystemRandom().randrange(10**6, 10**9)


class _Change:
    """A write, or a truncation where `data` is None, that a crash may lose."""

    __slots__ = ("data", "fate", "offset")

    def __init__(self, offset: int, data: bytes | None) -> None:
        self.offset = offset
        self.data = data
        # "doubtful": a sync of it failed. Systems then call the pages clean, so that the next sync
        # succeeds without writing them.
        self.fate: Literal["cached", "doubtful", "synced"] = "cached"

    def apply(self, image: bytearray) -> None:
        if self.data is None:
            _grow(image, self.offset)
            del image[self.offset :]
        else:
            _put(image, self.offset, self.data)

    def apply_by_chance(self, image: bytearray, random: Random, survival: float) -> None:
        """Keep it, lose it, or keep some of its sectors. That is all that reordering can do, too:
        which of two writes a sector has.
        """
        if self.data is None or random.random() < 0.6:
            pieces = [self]
        else:
            pieces = list(self._sectors(self.data))
        for piece in pieces:
            if random.random() < survival:
                piece.apply(image)
            elif piece.data is not None and random.random() < 0.5:
                # The file has grown, what was to be in it is lost.
                _grow(image, piece.offset + len(piece.data))

    def _sectors(self, data: bytes) -> Iterator[_Change]:
        start = 0
        while start < len(data):
            end = start + SECTOR_BYTES - (self.offset + start) % SECTOR_BYTES
            yield _Change(self.offset + start, data[start:end])
            start = end


def _put(image: bytearray, offset: int, data: bytes) -> None:
    _grow(image, offset)
    image[offset : offset + len(data)] = data


def _grow(image: bytearray, size: int) -> None:
    if len(image) < size:
        image.extend(bytes(size - len(image)))


class _DiskFile:
    """A file as the disk has it, and the changes that the disk may not have yet."""

    def __init__(self, content: bytes | None) -> None:
        self._image = bytearray(content or b"")
        self._changes: list[_Change] = []
        self.has_durable_name = content is not None

    def change(self, offset: int, data: bytes | None) -> None:
        self._changes.append(_Change(offset, data))

    def sync(self) -> None:
        self._settle("synced")
        self.has_durable_name = True
        done = 0
        # What is behind a doubtful change waits, so that the order stays.
        while done < len(self._changes) and self._changes[done].fate == "synced":
            self._changes[done].apply(self._image)
            done += 1
        del self._changes[:done]

    def fail_sync(self) -> None:
        self._settle("doubtful")

    def _settle(self, fate: Literal["doubtful", "synced"]) -> None:
        for change in self._changes:
            if change.fate == "cached":
                change.fate = fate

    def after_crash(self, random: Random) -> bytes:
        image = bytearray(self._image)
        survival = random.choice(_SURVIVAL)
        for change in self._changes:
            if change.fate == "synced":
                change.apply(image)
            else:
                change.apply_by_chance(image, random, survival)
        return bytes(image)


class _Fault:
    def __init__(self, operation: str, nth: int, times: float, error: int) -> None:
        self.operation = operation
        self.waits = nth - 1
        self.times = times
        self.error = error


class FaultyVfs(apsw.VFS):
    """SQLite's own file system, with faults. Pass its `name` in `SqliteOptions(vfs=...)`; close
    what uses it before it.

    Writes reach the real files, so that any process sees them; syncs are only noted. Errors are
    injected into the write-ahead log and the rollback journal alone: those of a checkpoint SQLite
    would pass over, but apsw reports them as if the commit had failed.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"leftfold-faulty-{next(_vfs_numbers)}"
        super().__init__(self.name, "")
        self.bytes_left: int | None = None
        """How many bytes the logs can grow before the disk is full; None: it never is."""
        self.on_sync: Callable[[str], object] | None = None
        """Called with the path in the thread that syncs, before each sync. It may wait."""
        self.open_files = 0
        """Open database, journal and log files."""
        self.operations = 0
        """How many writes, truncations, syncs and deletions there were."""
        self._mutex = threading.RLock()
        self._files: dict[str, _DiskFile] = {}
        self._unlinked: dict[str, _DiskFile] = {}
        self._faults: list[_Fault] = []
        self._last_operation: int | None = None

    def fail(self, operation: Literal["write", "sync"], nth: int = 1, *, times: float = 1) -> None:
        """Let the `nth` such operation from now fail, and those after it up to `times` (inf: till
        `heal`).
        """
        error = apsw.SQLITE_IOERR_WRITE if operation == "write" else apsw.SQLITE_IOERR_FSYNC
        with self._mutex:
            self._faults.append(_Fault(operation, nth, times, error))

    def cut_power(self, after: int = 0) -> None:
        """Do `after` more operations; from then on every one fails."""
        with self._mutex:
            self._last_operation = self.operations + after

    def heal(self) -> None:
        """End all faults."""
        with self._mutex:
            self._faults.clear()
            self.bytes_left = self._last_operation = None

    @property
    def power_is_off(self) -> bool:
        """Whether an operation was refused because of `cut_power`, or the next one will be."""
        return self._last_operation is not None and self.operations >= self._last_operation

    def crash(self, directory: str | os.PathLike[str], seed: int) -> None:
        """Write into `directory` what could be on the disk if the power failed now.

        What was synced is there. Of other writes, truncations, new names and deletions any may be,
        in any order, writes also in part. Shared memory (-shm) is lost. Other seeds leave other
        files.
        """
        random = Random(seed)
        os.makedirs(directory, exist_ok=True)
        with self._mutex:
            for path, file in (self._files | self._unlinked).items():
                certain = path in self._files and file.has_durable_name
                if certain or random.random() < 0.5:
                    copy = Path(directory) / os.path.basename(path)
                    copy.write_bytes(file.after_crash(random))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unregister()

    # What SQLite calls.

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if not flags[0] & _TRACKED_FLAGS:
            return apsw.VFSFile("", name, flags)
        path = name if isinstance(name, str) else name.filename()
        with self._mutex:
            if path not in self._files:
                self._files[path] = _DiskFile(_content(path))
                self._unlinked.pop(path, None)
            return _FaultyFile(self, name, flags, self._files[path])

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        with self._mutex:
            self.operate()
            super().xDelete(name, sync_directory)
            file = self._files.pop(name, None)
            if file is not None and not sync_directory:
                self._unlinked[name] = file

    # What the open files call, holding the lock.

    def operate(self, log_operation: str = "") -> int | None:
        """Count an operation, and say with which error it fails, if it does. Raises IOError when
        the power is off.
        """
        if self.power_is_off:
            raise apsw.exception_for(apsw.SQLITE_IOERR)
        self.operations += 1
        for fault in self._faults:
            if fault.operation == log_operation:
                fault.waits -= 1
                if -fault.times <= fault.waits < 0:
                    return fault.error
        return None

    def sync_directory(self) -> None:
        """Make names and deletions durable."""
        self._unlinked.clear()
        for file in self._files.values():
            file.has_durable_name = True


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


class _FaultyFile(apsw.VFSFile):
    """An open database, journal or log file."""

    def __init__(self, vfs: FaultyVfs, name: Any, flags: list[int], file: _DiskFile) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._file = file
        self._path: str = name if isinstance(name, str) else name.filename()
        self._is_log = bool(flags[0] & _LOG_FLAGS)
        # As SQLite's unix VFS: the first sync of a new log makes its name durable.
        self._syncs_directory = self._is_log
        self._is_open = True
        vfs.open_files += 1

    def _operate(self, operation: str) -> int | None:
        return self._vfs.operate(operation if self._is_log else "")

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        with self._vfs._mutex:
            data = bytes(data)
            error = self._operate("write")
            # A failing write may have written some of it.
            fits = len(data) // 2 if error else self._fitting(len(data), offset)
            if fits:
                self._file.change(offset, data[:fits])
                super().xWrite(data[:fits], offset)
            if fits < len(data):
                raise apsw.exception_for(error or apsw.SQLITE_FULL)

    def _fitting(self, size: int, offset: int) -> int:
        if self._vfs.bytes_left is None or not self._is_log:
            return size
        growth = max(0, offset + size - max(offset, super().xFileSize()))
        lacking = max(0, growth - self._vfs.bytes_left)
        self._vfs.bytes_left -= growth - lacking
        return size - lacking

    def xTruncate(self, size: int) -> None:  # noqa: N802
        with self._vfs._mutex:
            self._operate("truncate")
            self._file.change(size, None)
            super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        hook = self._vfs.on_sync
        if hook is not None:
            hook(self._path)
        with self._vfs._mutex:
            error = self._operate("sync")
            if error:
                self._file.fail_sync()
                raise apsw.exception_for(error)
            self._file.sync()
            if self._syncs_directory:
                self._vfs.sync_directory()
                self._syncs_directory = False

    def xClose(self) -> None:  # noqa: N802
        super().xClose()
        if self._is_open:
            self._is_open = False
            self._vfs.open_files -= 1
