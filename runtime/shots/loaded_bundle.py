"""The files of a loaded bundle, which engines may read while they run: OpenVINO maps the weights into memory.

A file that is replaced by another one under its name stays as it was for an engine that has it open. One that
is written to does not: frames made from then on are others, and so are the references that were kept.
"""

from __future__ import annotations

import os

from ...engines.bundle import Bundle
from ...engines.files import Stamp, hashed, stamp
from ...errors import InputChanged


def check_unchanged(bundle: Bundle, *, thorough: bool = False) -> None:
    """Raise InputChanged if a file of a loaded bundle was written to since it was opened.

    Reads only times and sizes. If `thorough`, a file of which only the status has changed is hashed, as its
    time may have been set back.
    """
    for name, opened in bundle.hashed.items():
        path = bundle.path / name
        try:
            now = stamp(os.stat(path))
            if now == opened.stamp or file_id(now) != file_id(opened.stamp):
                continue
            same = (now.num_bytes, now.modified_ns) == (opened.stamp.num_bytes, opened.stamp.modified_ns)
            if same and not (thorough and hashed(path).file != opened.file):
                continue
        except OSError:  # it was removed, or replaced by something that is no file
            continue
        raise InputChanged(
            f"{path}: expected a file of the bundle that stays as it is, but it was written to after the "
            "bundle was loaded; try again"
        )


def file_id(of: Stamp) -> tuple[int, int]:
    """What remains when a file is written to, and changes when another one takes its name."""
    return of.device, of.inode
