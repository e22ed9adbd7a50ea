"""The spool: a folder with one folder for each job, from which a service that was killed continues.

SPOOL/jobs/ID/job.json      the record: state, times, error; written when a job is accepted and when it ends
SPOOL/jobs/ID/shot.jsonl    the request, a job list of one line
SPOOL/jobs/ID/reference.png, driving.mp4, ...   copies of the inputs
SPOOL/jobs/ID/ID.mp4        the result, and its sidecar beside it
SPOOL/new/ID/               a job that is not accepted yet; cleared at the start
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

from ...atomic import unwritable
from ...engines.files import read_bytes
from ...engines.json_document import from_json
from ...errors import ConfigError, OutputError, Rejected
from ...text import one_line, quoted

LOG = logging.getLogger("animate_rt")

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"completed", "failed", "cancelled"})

RECORD, SHOT, LOCK = "job.json", "shot.jsonl", "lock"
MAX_BYTES = 1 << 20  # of a record
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
        with suppress(OSError, ValueError):  # a file system without locks; closed before
            fcntl.flock(self.lock, fcntl.LOCK_UN)  # a fork of this process may have the file open
        self.lock.close()

    def start(self) -> Path:
        """Make the folder of a job that is not accepted yet; its name is the job's id."""
        folder = self.new / secrets.token_hex(12)
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise unwritable(folder, error) from error
        return folder

    def accept(self, folder: Path, record: Record) -> Path:
        """Make a new job durable and return its folder. Raises OutputError."""
        target = self.jobs / record.id
        try:
            write(folder / RECORD, record)
            sync(*folder.rglob("*"), folder)
            folder.rename(target)
            sync(self.jobs)
        except OSError as error:
            self.remove(record.id)  # a job that is refused now is not made by a later start
            raise unwritable(target, error) from error
        return target

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
        kept = {RECORD, SHOT}
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
        """Remove a job, first its record, so that what a kill leaves does not count as a job."""
        folder = self.jobs / job_id
        with suppress(OSError):
            (folder / RECORD).unlink()
        shutil.rmtree(folder, ignore_errors=True)

    def read(self) -> list[Record]:
        """The records of all jobs, the oldest first. A folder whose record is damaged is left as it is."""
        found = []
        for folder in self.jobs.iterdir():
            if not folder.is_dir() or folder.is_symlink():
                continue
            if not (folder / RECORD).exists():
                shutil.rmtree(folder, ignore_errors=True)  # a removal that was killed
                continue
            try:
                record: Record = from_json(Record, json.loads(read_bytes(folder / RECORD, MAX_BYTES)), RECORD)
            except (OSError, ValueError, ConfigError, RecursionError) as error:
                LOG.warning(
                    "job %s: its record cannot be read: %s", quoted(folder.name), one_line(str(error))
                )
                continue
            if record.id == folder.name and record.schema == SCHEMA:
                found.append(record)
        return sorted(found, key=lambda record: (record.created, record.id))


def hold(path: Path) -> IO[str]:
    """Lock a file until it is closed or the process ends. Raises Rejected if another process has it."""
    file = path.open("a+")
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


def write(path: Path, record: Record) -> None:
    text = json.dumps(asdict(record), indent=1, allow_nan=False)
    if len(text) > MAX_BYTES:
        raise ConfigError(f"labels: expected a record of at most {MAX_BYTES} bytes, found {len(text)}")
    path.write_text(text, encoding="utf-8")


def sync(*paths: Path) -> None:
    """Make files durable, and the names in folders. At the same time: the disk then waits once for all."""
    with ThreadPoolExecutor(min(len(paths), SYNCED)) as pool:
        list(pool.map(sync_one, paths))


def sync_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
