"""Connects to Ray: to a running cluster, or to one that is started for this process."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from threading import Event
from typing import Any

from ...errors import ClusterError, ConfigError
from ...text import message_of, one_line, quoted
from .processes import DEAD, processes

MAX_TEMPORARY = 24  # bytes of a folder's path: Ray appends up to 78 for its sockets, whose limit is 107
INSTALL = "pip install 'animate-rt[farm]'"
FOLDER = "ANIMATE_RT_FARM_FOLDER"  # variable with the folder for the files of our own Ray
VITAL = ("gcs_server", "raylet")  # processes of Ray without which nothing more happens

stopping = Event()  # set when Ray is stopped in good order, so that its processes end


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address`, or to one that is started here.

    The latter listens on loopback only, and stops after the block. Its files are in the folder that the
    variable FOLDER names, or else in one that is removed. Raises ConfigError if Ray is not installed, and
    ClusterError if it does not start or fails in the block.
    """
    if address is None:
        # Ray runs only requests with this token. By default it would store one in the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" not in sys.modules:  # which reads these at import
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # it prints a message if there is none
            # Without clusters Ray listens on loopback. The name is of the systems that it has none on.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    check_installed()
    try:
        import ray
    except ImportError as error:
        reason = one_line(message_of(error), 300)
        raise ConfigError(f"farm: cannot import the package ray: {reason}; {INSTALL}") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        if address is None:
            folder = os.environ.get(FOLDER) or stack.enter_context(ray_folder())
            options |= {"include_dashboard": False, "_temp_dir": folder}
        stack.callback(ray.shutdown)
        stopping.clear()
        stack.callback(stopping.set)  # before shutdown
        try:
            ray.init(address=address or "local", **options)
        except Exception as error:  # Ray raises many kinds, among them plain Exception
            raise unreachable(address, f"failed: {first_sentence(message_of(error))}") from error
        try:
            yield ray
        except ray.exceptions.RayError as error:
            raise ended(f"it failed: {first_sentence(message_of(error))}") from error


def check_installed() -> None:
    """Raise ConfigError if Ray is not installed."""
    if not find_spec("ray"):
        raise ConfigError(f"farm: expected the package ray, found none; install it with {INSTALL}")


def unreachable(address: str | None, reason: str) -> ClusterError:
    """The error to raise when Ray has not started, or its cluster cannot be joined."""
    place = quoted(address or "this machine")
    return ClusterError(f"farm: expected to reach Ray at {place}, {reason}; start the same command again")


def ended(reason: str) -> ClusterError:
    """The error to raise when Ray has failed in the middle."""
    return ClusterError(
        f"farm: expected Ray to run until all shots are made, {reason}; the same command resumes"
    )


def first_sentence(message: str) -> str:
    """The first sentence of one of Ray's messages. What follows may fill a page, and gives Ray's advice."""
    return one_line(one_line(message).partition(". ")[0], 300)


@contextmanager
def ray_folder() -> Iterator[str]:
    """Yield the path of a temporary folder for the files of our own Ray. Removes it after the block."""
    parent = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="farm-",
        dir=parent if len(os.fsencode(parent)) <= MAX_TEMPORARY else "/tmp",
        ignore_cleanup_errors=True,
    ) as folder:
        yield folder


def dead_process() -> str:
    """The name of a process of our own Ray that has died, without which Ray cannot work; "" if none has."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return ""  # no child of this process has died: the cheapest way to know
    except ChildProcessError:
        return ""
    own = os.getpid()
    dead = [p.name for p in processes() if p.parent == own and p.state == DEAD and p.name in VITAL]
    return dead[0] if dead and not stopping.is_set() else ""
