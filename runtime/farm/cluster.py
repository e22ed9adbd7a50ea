"""The cluster: a connection to Ray, to one that runs already or to one of this process's own."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ...errors import ConfigError, DeviceError

MAX_TEMPORARY = 24  # bytes of a folder's path: Ray's sockets lie 78 below, and may have 107
INSTALL = "pip install 'animate-rt[farm]'"


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray: a cluster that is there, or one of this process alone, which leaves nothing behind unless this
    process is killed: then a folder of logs."""
    if address is None:
        # Whoever does not know the token cannot make this Ray run anything. Ray would keep one at home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" not in sys.modules:  # it reads the mode once; asked for, it says nothing of it
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"farm: expected the package ray, found none; {INSTALL}") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        if address is None:
            parent = tempfile.gettempdir()
            folder = tempfile.TemporaryDirectory(
                prefix="farm-",
                dir=parent if len(os.fsencode(parent)) <= MAX_TEMPORARY else "/tmp",
                ignore_cleanup_errors=True,
            )
            quiet |= {"include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        stack.callback(ray.shutdown)
        try:
            with own_sigterm_handler():
                ray.init(address=address or "local", **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DeviceError(f"farm: expected a Ray at {address or 'this machine'}: {reason}") from error
        yield ray


@contextmanager
def own_sigterm_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, where Ray sets its own; a signal that has reached that is passed on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray leaves it alone, too
        return
    handler, stopped = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:
        stopped = True
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
        if stopped:
            signal.raise_signal(signal.SIGTERM)
