"""The spool: a folder with one folder for each job, from which a service that was killed continues.

SPOOL/jobs/ID/job.json      the record: state, times, error; written when a job is accepted and when it ends
SPOOL/jobs/ID/shot.jsonl    the request, a job list of one line
SPOOL/jobs/ID/reference.png, driving.mp4, ...   copies of the inputs
SPOOL/jobs/ID/ID.mp4        the result, and its sidecar beside it
SPOOL/jobs/ID/cancelled, removed   what was asked for while the job is still made
SPOOL/new/ID/               a job that is not accepted yet, or is being removed; cleared at the start
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Literal
from weakref import WeakSet

from ...atomic import unwritable
from ...engines.files import read_bytes
from ...engines.json_document import from_json
from ...errors import ConfigError, OutputError, Rejected
from ...text import message_of, one_line, quoted

LOG = logging.getLogger("animate_rt")

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"completed", "failed", "cancelled"})

RECORD, SHOT, LOCK = "job.json", "shot.jsonl", "lock"
CANCELLED, REMOVED = "cancelled", "removed"
MAX_BYTES = 1 << 20  # of a record
MAX_NEW_BYTES = MAX_BYTES // 2  # of a new one, to which its end is added later
SYNCED = 8  # files that are made durable at the same time
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a job, as it is on disk. Times are seconds since 1970; 0 is never."""

    schema: int = SCHEMA
    id: str
    size: str  # the name of its bundle
    bundle: str  # digest
    request: str  # digest of the inputs' contents and the options
    num_frames: int  # of the clip, as counted before it was accepted
    frame_rate: str  # a fraction
    num_bytes: int = 0  # of the result
    created: float
    deadline: float = 0.0
    idempotency_key: str = ""
    trace: str = ""  # the caller's trace context, W3C's traceparent
    labels: dict[str, str] = field(default_factory=dict)  # the caller's own
    state: State = "queued"
    began: float = 0.0  # when the device first took it
    ended: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    error_code: str = ""
    error_message: str = ""


class Spool:
    """A spool folder, held by one service at a time. Raises OutputError, or Rejected if another holds it."""

    def __init__(self, path: Path):
        self.path = path
        self.jobs, self.new = path / "jobs", path / "new"
        try:
            for folder in (path, self.jobs, self.new):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock = hold(path / LOCK)
            for entry in self.new.iterdir():
                shutil.rmtree(entry, ignore_errors=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def close(self) -> None:
        release(self.lock)

    def start(self) -> Path:
        """Make the folder of a job that is not accepted yet; its name is the job's id."""
        folder = self.new / secrets.token_hex(12)
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise unwritable(folder, error) from error
        return folder

    def prepare(self, folder: Path, record: Record) -> None:
        """Write the record of a new job, and make its files durable. Raises ConfigError or OutputError."""
        check_readable(record)
        try:
            write(folder / RECORD, record)
            sync(*folder.rglob("*"), folder)
        except OSError as error:
            raise unwritable(folder, error) from error

    def accept(self, folder: Path, record: Record) -> Path:
        """Turn a prepared folder into a job, durably, and return its new path. Raises OutputError."""
        target = self.jobs / record.id
        try:
            folder.rename(target)
            sync(self.jobs)
        except OSError as error:
            self.remove(record.id)  # the caller is told that there is no job
            raise unwritable(target, error) from error
        return target

    def mark(self, job_id: str, wish: str) -> None:
        """Note, durably, that an unfinished job is to be CANCELLED or REMOVED, so that a restart does so.

        A full disk is logged only: this service does what was asked for all the same.
        """
        folder = self.jobs / job_id
        try:
            (folder / wish).touch()
            sync(folder)
        except FileNotFoundError:
            pass  # the job has been removed meanwhile
        except OSError as error:
            LOG.warning("job %s: %s", job_id, unwritable(folder / wish, error))

    def is_marked(self, job_id: str, wish: str) -> bool:
        return (self.jobs / job_id / wish).exists()

    def update(self, record: Record) -> None:
        """Make a job's result durable, if there is one, and replace the record. Raises OutputError."""
        folder = self.jobs / record.id
        temporary = folder / f"{RECORD}.new"
        try:
            write(temporary, record)
            sync(temporary, *folder.glob(f"{record.id}.mp4*"))
            temporary.rename(folder / RECORD)
            sync(folder)
        except OSError as error:
            raise unwritable(folder, error) from error

    def end(self, record: Record) -> None:
        """Record that a job has ended, and remove all but its record, request and result.

        A full disk is logged only: the job has ended all the same, and a restart finds out that it has.
        """
        folder = self.jobs / record.id
        kept = {RECORD, SHOT, REMOVED}
        if record.state == "completed":
            kept |= {f"{record.id}.mp4", f"{record.id}.mp4.json"}
        try:
            self.update(record)
        except OutputError as error:
            LOG.warning("job %s: %s", record.id, error)
        with suppress(OSError):
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name not in kept:
                    entry.unlink()

    def folder(self, job_id: str) -> Path:
        return self.jobs / job_id

    def remove(self, job_id: str) -> None:
        """Remove a job."""
        shutil.rmtree(self.take_out(job_id), ignore_errors=True)

    def take_out(self, job_id: str) -> Path:
        """Move a job to what is not accepted, so that no kill leaves half of it. Returns its path."""
        folder = self.new / job_id
        with suppress(OSError):
            (self.jobs / job_id).rename(folder)
        return folder

    def read(self) -> list[Record]:
        """The records of all jobs, the oldest first.

        A folder whose record is damaged is left as it is. One that was to be removed is removed.
        """
        found = []
        for folder in self.jobs.iterdir():
            if not folder.is_dir() or folder.is_symlink():
                continue
            if not (folder / RECORD).exists() or self.is_marked(folder.name, REMOVED):
                self.remove(folder.name)
                continue
            try:
                record: Record = from_json(Record, json.loads(read_bytes(folder / RECORD, MAX_BYTES)), RECORD)
                if record.id != folder.name or record.schema != SCHEMA:
                    raise ConfigError(
                        f"{RECORD}: expected the record of this folder's job with schema {SCHEMA}, "
                        f"found job {quoted(record.id)} with schema {record.schema}"
                    )
                found.append(record)
            except (OSError, ValueError, ConfigError, RecursionError) as error:
                reason = one_line(message_of(error))
                LOG.warning(
                    "spool: %s is left out, as its record is damaged: %s", quoted(folder.name), reason
                )
        return sorted(found, key=lambda record: (record.created, record.id))


HELD: WeakSet[IO[str]] = WeakSet()  # locked files


def hold(path: Path) -> IO[str]:
    """Lock a file until `release` or the process's end. Raises Rejected if another process has it."""
    file = path.open("a+")
    HELD.add(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Rejected(
            f"spool: expected a folder of this service alone, found {quoted(str(path.parent))} in use by "
            "another service; choose another folder"
        ) from error
    except OSError:  # a file system without locks
        pass
    return file


def release(file: IO[str]) -> None:
    """Unlock a file for everybody, although a fork of this process may have it open, and close it."""
    with suppress(OSError, ValueError):  # a file system without locks, or a file that is closed
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def close_in_fork() -> None:
    """Close locked files in a fork, which otherwise keeps the locks when the service's process ends."""
    for file in list(HELD):
        file.close()


os.register_at_fork(after_in_child=close_in_fork)


def check_readable(record: Record) -> None:
    """Raise ConfigError if a new record could not be read again after a restart."""
    try:
        text = to_text(record)
        from_json(Record, json.loads(text), "job")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"labels: expected texts, found {quoted(record.labels)}") from error
    if len(text) > MAX_NEW_BYTES:
        raise ConfigError(
            f"labels: expected a record of at most {MAX_NEW_BYTES} bytes with them, found {len(text)}; "
            "use shorter ones"
        )


def to_text(record: Record) -> str:
    """A record as JSON in ASCII."""
    return json.dumps(asdict(record), indent=1, allow_nan=False)


def write(path: Path, record: Record) -> None:
    path.write_text(to_text(record), encoding="utf-8")


def sync(*paths: Path) -> None:
    """Make files durable, and the names in folders. At the same time: the disk then waits once for all."""
    if len(paths) == 1:
        return sync_one(*paths)
    with ThreadPoolExecutor(min(len(paths), SYNCED)) as pool:
        list(pool.map(sync_one, paths))


def sync_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
