"""The driver, as Ray calls it: the process that connects to Ray. Here it runs the farm's loop.

Ray may end the process that is connected to it, without an exception, or hang it. So the farm's command runs
the loop in a process of its own, follows its report, and says what happened when it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from threading import Lock, Thread
from time import monotonic
from typing import IO, NoReturn

from ...errors import AnimateError, ClusterError
from ...text import message_of
from .cluster import FOLDER, dead_process, ended, first_sentence, ray_folder, unreachable
from .farm import Farm
from .processes import end_session
from .report import FarmReport

POLL_S = 0.25
SILENCE_S = 120.0  # without a report; Ray itself gives up after 30 or 60 s while it starts
GRACE_S = 10.0  # for stopping workers and Ray
DONE = "done"


def run_in_driver(farm: Farm) -> None:
    """Run the farm in a process of its own. `farm.report` is kept up to date and shown in this one.

    Raises what `Farm.run` raises, and ClusterError if that process dies or is silent for SILENCE_S. Whatever
    happens, also if this process is killed, all processes of the farm's own Ray end with it.
    """
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        farm.run()  # here, as Ray's threads do not survive a fork
        return
    here, there = Pipe()
    with here, ray_folder() as folder, tempfile.TemporaryFile() as log:
        driver = get_context("fork").Process(target=drive, args=(farm, here, there, folder, log.fileno()))
        driver.start()
        there.close()
        try:
            follow(farm, here, log)
            driver.join(GRACE_S)
        finally:
            driver.terminate()
            driver.join(GRACE_S)
            driver.kill()
            driver.join()
            if driver.pid:
                end_session(driver.pid)


def follow(farm: Farm, driver: Connection, log: IO[bytes]) -> None:
    """Receive and show the driver's reports until it is done. Raises its error.

    When all shots have ended, it no longer matters whether Ray can be stopped in good order.
    """
    first: FarmReport = farm.report
    message: FarmReport | Exception | str = first
    heard_s = monotonic()
    while isinstance(message, FarmReport):
        farm.report = message
        farm.show(message)
        if driver.poll(POLL_S):
            heard_s = monotonic()
            try:
                message = driver.recv()
            except (EOFError, OSError):
                message = ended(f"it ended the farm's process: {last_line(log) or 'it said nothing'}")
        elif monotonic() - heard_s >= (GRACE_S if farm.report.has_ended else SILENCE_S):
            reason = f"it has not answered for {SILENCE_S:.0f} s"
            message = unreachable(farm.address, reason) if message is first else ended(reason)
    if isinstance(message, Exception) and not (isinstance(message, ClusterError) and farm.report.has_ended):
        raise message


def drive(farm: Farm, here: Connection, there: Connection, folder: str, log: int) -> None:
    """Run the farm and send its reports. This is the driver."""
    here.close()
    os.setsid()  # Ray's processes are in this session, and signals of the terminal are not for them
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray prints a paragraph for each worker that dies
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    os.environ[FOLDER] = folder
    lock = Lock()
    Thread(target=watch, args=(there, lock, folder), daemon=True).start()

    def send(message: FarmReport | Exception | str) -> None:
        with lock:
            there.send(message)

    farm.show = send
    try:
        farm.run()
    except Exception as error:
        outcome: Exception | str = portable(error)
    else:
        outcome = DONE
    send(farm.report)
    send(outcome)


def watch(there: Connection, lock: Lock, folder: str) -> NoReturn:
    """End this process when Ray dies, or, with all of Ray's, when the process at the other end has ended."""
    with suppress(OSError):
        while not there.poll(POLL_S):  # nothing is ever sent
            if name := dead_process():
                with lock:
                    there.send(ended(f"its process {name} died"))
                os._exit(1)  # stopping Ray in good order would wait for that process
    shutil.rmtree(folder, ignore_errors=True)  # first, as Ray ends this process when the others die
    end_session(os.getpid())
    os._exit(1)


def portable(error: Exception) -> Exception:
    """The error as one that can be sent to another process, with its traceback if it is not one of ours."""
    if isinstance(error, (AnimateError, MemoryError)):
        return type(error)(*error.args)
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or message_of(error), error.filename)
    other = RuntimeError(f"{type(error).__name__}: {message_of(error)}")
    other.add_note("".join(traceback.format_exception(error)))
    return other


def last_line(log: IO[bytes]) -> str:
    """The last line that Ray logged, without time and process, or else the last line of all."""
    log.seek(max(log.seek(0, os.SEEK_END) - 20_000, 0))
    lines = [line for line in log.read().decode("utf-8", "replace").split("\n") if line.strip()]
    logged = [line.partition("] ")[2] for line in lines if line.startswith("[")]
    return first_sentence((logged or lines or [""])[-1])
