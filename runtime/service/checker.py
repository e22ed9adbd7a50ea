"""The checker: a process of its own, with limits, that opens files which come from anywhere.

It opens the inputs of jobs before they are accepted, and files in which marks are looked for. Decoders are
large libraries. One that crashes, hangs or takes too much memory ends the checker's process, and the service
starts another one.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

from ...engines.bundle import MANIFEST, Bundle, read_bundle
from ...engines.manifest import Manifest
from ...errors import AnimateError, InputError, ServiceClosed
from ...text import message_of, one_line
from ..marks.detection import detect
from ..media.pose_sequence import DEFAULT_FRAME_RATE, open_pose
from ..poses.driving import Driving
from ..poses.formats.reading import read_keypoints
from ..poses.sources import is_keypoint_source
from ..shots.checks import check
from ..shots.job_list import JobReader, parse
from ..shots.shot import Shot
from .job import error_class

MEMORY_BYTES = 4 << 30  # address space; the libraries themselves take about 1 GB of it
MAX_ANSWER = 1 << 16
GRACE_S = 5  # after which a process that nobody waits for any more ends itself
# Held while a process is started, and for the moment of a fork. A fork in between would keep the ends of
# the pipes that belong to the new process, and nobody would see that this process has ended.
STARTING = Lock()
os.register_at_fork(
    before=STARTING.acquire, after_in_parent=STARTING.release, after_in_child=STARTING.release
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one job's inputs.

    frames: of the clip, and of the video that drives it. check_s: seconds that opening and counting may take.
    """

    frames: int = 2000
    check_s: float = 60.0


class Examined(NamedTuple):
    """The length of a clip."""

    num_frames: int
    frame_rate: Fraction


class Checker:
    """Checks one job at a time. The process is started when it is needed, or by `start` before that."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.lock = Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def start(self) -> None:
        """Start the process, so that the first job need not wait for it. Raises OSError or ServiceClosed."""
        with self.lock:
            self._started()

    def examine(self, job_list: Path) -> Examined:
        """Check the shot of a job list of one line, and tell the length of its clip.

        Raises ConfigError, InputError or another error that `make` would raise for these inputs, and
        ServiceClosed.
        """
        answer = self._answer({"job_list": str(job_list), "frames": self.limits.frames})
        return Examined(int(answer["frames"]), Fraction(answer["frame_rate"]))

    def detect(self, path: Path) -> dict[str, Any]:
        """The marks of a picture or video, a `Detection` as JSON. Raises InputError or ServiceClosed."""
        return self._answer({"detect": str(path)})

    def close(self) -> None:
        """Stop the process, also while it is asked. Every later question raises ServiceClosed."""
        self.closed = True
        process = self.process
        if process is not None:
            process.kill()  # before the lock is taken: another thread may hold it and wait for an answer
        with self.lock:
            self._stop()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The process's answer. Raises what went wrong there."""
        check_s = self.limits.check_s
        with self.lock:
            end = monotonic() + check_s
            answer = self._ask(question | {"check_s": check_s}, end)
            # The process may have died before: it is the inputs' fault if a second one dies too.
            if answer is None and monotonic() < end:
                answer = self._ask(question | {"check_s": check_s}, end)
            if answer is None:
                self._check_open()
                raise InputError(
                    f"inputs: expected files that can be read in {check_s:g} s and "
                    f"{MEMORY_BYTES >> 30} GB of memory, found some that cannot; use shorter or smaller ones"
                )
        if "code" in answer:
            raise error_class(str(answer["code"]))(str(answer["message"]))
        return answer

    def _ask(self, question: dict[str, Any], end: float) -> dict[str, Any] | None:
        """Ask the process, which is stopped if it does not answer before `end`."""
        answer = ask(self._started(), question, end)
        if answer is None:
            self._stop()
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        self._check_open()
        if self.process is None or self.process.poll() is not None:
            self._stop()
            with STARTING:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # libraries print what is in the files
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            self._check_open()  # `close` may not have seen the new process
        return self.process

    def _check_open(self) -> None:
        if self.closed:
            self._stop()
            raise ServiceClosed("service: expected an open one, found it shutting down; try again later")

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # a question that was not sent whole
                        pipe.close()


def ask(process: subprocess.Popen[bytes], question: dict[str, Any], end: float) -> dict[str, Any] | None:
    """Send a question and return the answer; None if the process dies or does not answer before `end`."""
    assert process.stdin is not None
    assert process.stdout is not None
    answer = b""
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        with DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(0.0, end - monotonic())):
                    return None
                part = os.read(process.stdout.fileno(), MAX_ANSWER)
                if not part or len(answer) > MAX_ANSWER:
                    return None
                answer += part
        found: dict[str, Any] = json.loads(answer)
        return found
    except (OSError, ValueError):
        return None


def examine(job_list: Path, limit: int) -> Examined:
    """Check the only shot of a job list, and count its frames. Raises AnimateError."""
    reader = JobReader(job_list.parent, job_list.parent, manifest_of)
    reader.read(1, parse(job_list.read_bytes()))
    shot = reader.shots[1]
    bundle = manifest_of(shot.bundle)
    check(shot, bundle)
    if shot.driving:
        found = examine_driven(shot, shot.driving, limit)
    else:
        found = examine_drawn(shot, bundle.manifest, limit)
    if found.num_frames > limit:
        raise InputError(f"poses: expected at most {limit} frames, found more; use a shorter clip")
    if found.num_frames < 1:
        raise InputError("poses: expected at least one frame, found none; choose an earlier start")
    return found


def manifest_of(path: Path) -> Bundle:
    """A bundle whose files are not verified. It is read once, unless it is replaced."""
    status = (path / MANIFEST).stat()
    return read_once(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=16)
def read_once(path: Path, _inode: int, _modified_ns: int) -> Bundle:
    return read_bundle(path)


def examine_drawn(shot: Shot, manifest: Manifest, limit: int) -> Examined:
    poses = shot.open_drawn(manifest)
    return Examined(sum(1 for _ in islice(poses, limit + 1)), shot.frame_rate(poses))


def examine_driven(shot: Shot, driving: Driving, limit: int) -> Examined:
    if is_keypoint_source(shot.driver):
        keypoints = read_keypoints(shot.driver, person=driving.person)
        number, found_rate = len(keypoints), keypoints.frame_rate
    else:
        pictures = open_pose(shot.driver, None)
        number, found_rate = sum(1 for _ in islice(pictures, limit + 1)), pictures.frame_rate
    own_rate = found_rate or DEFAULT_FRAME_RATE
    part = shot.range().at(own_rate)
    rate = part.frame_rate or own_rate
    resampled = min(int(number * rate / own_rate), part.stop or limit + 1)
    return Examined(number if number > limit else resampled - part.start, shot.fps or rate)


def main() -> None:
    """Answer questions from standard input, one line of JSON each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write to the pipe
    for line in sys.stdin.buffer:
        question = json.loads(line)
        answer: dict[str, Any]
        # The service stops a process that takes too long, but it may have been killed itself.
        signal.alarm(math.ceil(question["check_s"]) + GRACE_S)
        try:
            if "detect" in question:
                answer = detect(question["detect"]).document()
            else:
                found = examine(Path(question["job_list"]), question["frames"])
                answer = {"frames": found.num_frames, "frame_rate": str(found.frame_rate)}
        except AnimateError as error:
            answer = {"code": error.code, "message": one_line(message_of(error))}
        except MemoryError:
            answer = {"code": InputError.code, "message": "inputs: expected smaller files, out of memory"}
        except OSError as error:
            answer = {"code": InputError.code, "message": one_line(f"inputs: {message_of(error)}")}
        signal.alarm(0)
        with suppress(BrokenPipeError):
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
