"""A server, `animate-rt serve`, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from ...errors import ConfigError
from ...text import one_line
from .video_client import VideoClient

TICK_S = 0.1
END_S = 15.0  # for the server to end by itself


@contextmanager
def serving(
    bundle: Path, folder: Path, queue: int, limit_s: float, tick: Callable[[], None]
) -> Iterator[tuple[str, int]]:
    """Start a server on a free port, and stop it after the block. Yields its URL and the process's number.

    The spool is made in `folder`. `tick` is called while the server loads. Raises ConfigError if it is not
    ready within so many seconds.
    """
    command = [sys.executable, "-m", "animate_rt", "serve", str(bundle), "--port", "0"]
    command += ["--queue", str(queue), "--spool", str(folder / "spool"), "--no-watermark", "--no-metadata"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline().decode())
            end = monotonic() + limit_s
            while not (found and VideoClient(found[0]).is_ready()):
                tick()
                if process.poll() is not None or monotonic() > end:
                    log.seek(0)
                    last = log.read().decode(errors="replace").splitlines()[-1:]
                    reason = one_line(*last) if last else "it wrote nothing"
                    raise ConfigError(f"expected a server that is ready in {limit_s:g} s, found: {reason}")
                sleep(TICK_S)
            yield found[0], process.pid
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
