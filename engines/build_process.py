"""Runs a step of a build in a child process, because the library that it uses may crash, run out of memory,
or not react to Ctrl-C.

The process writes lines of JSON, which report progress and results, to standard output, and its log to
standard error. It exits when its standard input is closed, so it cannot outlive the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import IO, Any

from ..errors import BuildError
from ..text import one_line

LOG_LINES, LOG_BYTES = 5, 20_000  # of the end of the log, in one error message
LINE = 400  # characters of each
HEARTBEAT_S = 0.2  # between calls of `progress` while the process reports nothing, which can take minutes
GRACE_S = 1.0  # time for the library to finish its step and stop

Report = Callable[[dict[str, Any]], None]
Work = Callable[[dict[str, Any], Report, Event], None]


def run_process(
    module: str, job: dict[str, Any], library: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Start a module that calls `serve` in a process, give it a job in JSON, and return what it reported.

    `progress` is called several times a second with the last "progress" that it reported; an exception from
    it ends the process. Raises BuildError with the end of its log, which names `library`.
    """
    pipe = subprocess.PIPE
    reported: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        given = Path(folder) / "job.json"  # a command line has little room
        given.write_text(json.dumps(job))
        # -P: do not import modules from the current folder.
        command = [sys.executable, "-P", "-m", module, os.fspath(given)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process:
            reader = Reader(process)
            try:
                while reader.update(reported):
                    progress(reported.get("progress", ""))
                process.wait()
            finally:
                stop(process)
                reader.join()
        if process.returncode != 0:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            raise BuildError(describe_failure(library, process.returncode, log))
    return reported


class Reader(Thread):
    """Reads the output of the process, in a thread: on Windows, waiting for a pipe has no timeout."""

    def __init__(self, process: subprocess.Popen[str]):
        super().__init__(daemon=True)
        assert process.stdout is not None
        self.pipe = process.stdout
        self.lines: SimpleQueue[str] = SimpleQueue()
        self.start()

    def run(self) -> None:
        for line in self.pipe:
            self.lines.put(line)
        self.lines.put("")

    def update(self, reported: dict[str, Any]) -> bool:
        """Add the next line to `reported`, waiting at most HEARTBEAT_S. False at the end of the output."""
        try:
            line = self.lines.get(timeout=HEARTBEAT_S)
        except Empty:
            return True
        if line:
            reported.update(json.loads(line))
        return bool(line)


def stop(process: subprocess.Popen[str]) -> None:
    """End the process: close its input, so that the library can release what it holds, then kill it if
    necessary."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def describe_failure(library: str, status: int, log: IO[bytes]) -> str:
    """Describe in one line why the process failed."""
    lines = log.read(LOG_BYTES).decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    reason = " | ".join(one_line(line, LINE) for line in lines)
    if status == -getattr(signal, "SIGKILL", 9):
        return (
            f"{library} was killed, probably for lack of memory; free some and build again. {reason}".strip()
        )
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"{library} ended with {how}: {reason or 'it gave no reason'}"


def serve(work: Work) -> None:
    """Do the job in the file on the command line, in the process that `run_process` started.

    `work` is called with the job, a function that reports to the parent, and an event that is set when the
    parent has ended or wants no result; the process ends GRACE_S later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches this process; the parent handles it
    # Everything else printed to standard output, also by native code, goes to the log.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    writing = Lock()  # a library may report from several threads

    def report(line: dict[str, Any]) -> None:
        with writing, suppress(BrokenPipeError):  # the parent is gone: `exit_with_parent` ends this process
            output.write(json.dumps(line) + "\n")
            output.flush()

    stopping = Event()
    Thread(target=exit_with_parent, args=(stopping,), daemon=True).start()
    work(json.loads(Path(sys.argv[1]).read_text()), report, stopping)


def exit_with_parent(stopping: Event) -> None:
    """When standard input is closed, let the library stop, then end this process."""
    os.read(0, 1)  # not sys.stdin: Python aborts at exit if a thread holds its lock
    stopping.set()
    time.sleep(GRACE_S)
    os._exit(1)
