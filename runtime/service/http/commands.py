"""The command `serve`."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import Event

from ....console import Commands, Console, add_command, need_packages
from ....engines.bundle import read_bundle
from ....errors import ConfigError
from ....text import quoted
from ...marks.commands import add_marks, marks_of

MIB, GB = 1 << 20, 10**9


def add_commands(commands: Commands) -> None:
    command = add_command(commands, serve, "serve bundles over HTTP, in the shape of the Videos API")
    add = command.add_argument
    add("bundle", type=Path, nargs="+", metavar="BUNDLE", help="directories made by `animate-rt build`")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: %(default)s)")
    add("--port", type=int, default=8000, metavar="N", help="0 chooses a free one (default: %(default)s)")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="tokens of clients, one a line; needed to listen at other than loopback addresses",
    )
    policy = command.add_mutually_exclusive_group()
    policy.add_argument(
        "--policy",
        metavar="MODULE:OBJECT",
        help="decides which references may be animated and which frames are given away (docs/marks.md); this "
        "or --no-policy is needed to listen at other than loopback addresses",
    )
    policy.add_argument("--no-policy", action="store_true", help="everything may be made (default)")
    add("--queue", type=int, default=8, metavar="N", help="jobs that may wait (default: %(default)s)")
    add(
        "--clips", type=int, default=2, metavar="N", help="clips made at the same time (default: %(default)s)"
    )
    add(
        "--spool",
        type=Path,
        metavar="DIR",
        help="where jobs are kept, over restarts (default: a temporary one)",
    )
    add(
        "--keep-hours",
        type=float,
        default=24,
        metavar="H",
        help="how long results are kept (default: %(default)s)",
    )
    add("--keep-gb", type=float, default=10, metavar="GB", help="size of all results (default: %(default)s)")
    add("--memory-gb", type=float, metavar="GB", help="for loaded bundles (default: all stay loaded)")
    add(
        "--max-frames",
        type=int,
        default=2000,
        metavar="N",
        help="of a clip and its inputs (default: %(default)s)",
    )
    add("--max-picture-mib", type=int, default=64, metavar="MIB", help="of an upload (default: %(default)s)")
    add("--max-video-mib", type=int, default=512, metavar="MIB", help="of an upload (default: %(default)s)")
    add(
        "--drain-s",
        type=float,
        default=30,
        metavar="S",
        help="seconds that jobs have to end after SIGTERM; later ones are made by the next start "
        "(default: %(default)s)",
    )
    add_marks(command)


def serve(options: argparse.Namespace, console: Console) -> None:
    need_packages("serve", "fastapi", "fastapi_offline", "uvicorn", "python_multipart", "prometheus_client")
    from ...marks.policy import load_policy
    from ..checker import Limits
    from ..service import Service
    from .app import create_app
    from .auth import read_tokens
    from .prometheus import PrometheusMetrics
    from .server import Server, url_of
    from .uploads import UploadLimits

    tokens = read_tokens(options.token_file) if options.token_file else []
    check_positive(options)
    marks = marks_of(options)
    policy = load_policy(options.policy) if options.policy else None
    bundles = by_size(options.bundle)
    has_policy = policy is not None or options.no_policy
    listener = open_listener(options.host, options.port, with_token=bool(tokens), with_policy=has_policy)
    with listener, logging_to_stderr():
        metrics, closing = PrometheusMetrics(), Event()
        service = Service(
            bundles,
            queue_size=options.queue,
            active_clips=options.clips,
            spool=options.spool,
            keep_s=3600 * options.keep_hours,
            keep_bytes=int(options.keep_gb * GB),
            memory_budget=None if options.memory_gb is None else int(options.memory_gb * GB),
            limits=Limits(frames=options.max_frames),
            metrics=metrics,
            policy=policy,
            marks=marks,
        )
        try:
            console.signals.check()
            limits = UploadLimits(
                picture_bytes=options.max_picture_mib * MIB, video_bytes=options.max_video_mib * MIB
            )
            app = create_app(service, metrics, tokens=tokens, limits=limits, closing=closing)
            print(f"serving {', '.join(bundles)} at {url_of(listener)}", flush=True)
            Server(app, service, closing, options.drain_s).run([listener])
        finally:
            closing.set()
            service.suspend()
        if service.failure:
            raise service.failure


def by_size(paths: list[Path]) -> dict[str, Path]:
    """Bundles by their frame size. Raises ConfigError if two have the same, or what `read_bundle` raises."""
    bundles: dict[str, Path] = {}
    for path in paths:
        bucket = read_bundle(path).manifest.bucket
        name = f"{bucket.width}x{bucket.height}"
        if name in bundles:
            raise ConfigError(
                f"BUNDLE: expected bundles of different sizes, found two of {name}; "
                "start a server for each of them"
            )
        bundles[name] = path
    return bundles


def check_positive(options: argparse.Namespace) -> None:
    names = (
        "queue",
        "clips",
        "keep_hours",
        "keep_gb",
        "memory_gb",
        "max_frames",
        "max_picture_mib",
        "max_video_mib",
    )
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < inf:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected more than 0 and a finite number, found {value:g}"
            )
    if not 0 <= options.port < 1 << 16:
        raise ConfigError(f"--port: expected 0 to 65535, found {options.port}")
    if not 0 <= options.drain_s < inf:
        raise ConfigError(f"--drain-s: expected 0 or more and a finite number, found {options.drain_s:g}")


def open_listener(host: str, port: int, *, with_token: bool, with_policy: bool) -> socket.socket:
    """Listen at an address; without a token or a policy, at a loopback one only. Raises ConfigError."""
    from .auth import is_loopback
    from .server import listen

    try:
        listener = listen(host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no address can be like this"
        raise ConfigError(f"cannot listen at {quoted(host)}, port {port}: {reason}") from error
    missing = {
        "--token-file": not with_token and "everybody could use the server",
        "--policy MODULE:OBJECT, or --no-policy,": not with_policy and "nothing decides who may be animated",
    }
    for option, reason in missing.items():
        if reason and not is_loopback(listener.getsockname()[0]):
            listener.close()
            raise ConfigError(
                f"--host: expected a loopback address, as {reason}, found {quoted(host)}; "
                f"give {option} to listen there"
            )
    return listener


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log requests and jobs with the time, instead of the console's lines of warnings only."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("animate_rt", "uvicorn")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [lines], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
