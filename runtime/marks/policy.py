"""What a service may make: a policy looks at the reference before a clip begins, and at frames of it.

A service (runtime/service/) asks it:

    policy.check_reference(picture, {"size": "512x768", "seed": 42, ...})    before a job is accepted
    policy.check_frames(frames)                                              before they are given away

Both raise Refused, which a server answers with HTTP 403 and its code. Logs name a picture by its digest only.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...errors import ConfigError
from ...text import message_of, one_line, quoted
from ..media.picture import Frame

MESSAGE = 300  # characters of another module's message in ours


@runtime_checkable
class Policy(Protocol):
    """Decides what may be made. Called from several threads."""

    def check_reference(self, picture: Frame, request: Mapping[str, Any]) -> None:
        """Raise Refused unless this picture, uint8 (height, width, 3), may be animated.

        `request` says who asks for what, in words of the caller.
        """

    def check_frames(self, frames: Sequence[Frame]) -> None:
        """Raise Refused if these frames, uint8 (height, width, 3), may not be given away."""


def picture_digest(picture: Frame) -> str:
    """SHA-256 of a picture's size and pixels, whatever file they came from."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


def load_policy(name: str) -> Policy:
    """The policy of that name, MODULE:OBJECT; its module is imported, which runs its code. It may be in the
    current folder.

    OBJECT is a policy, or a class or function that returns one without arguments. Raises ConfigError.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"--policy: expected MODULE:OBJECT, found {quoted(name)}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last, so that no file of it takes the place of another module
    try:
        found = getattr(import_module(module), attribute)
        policy = found if isinstance(found, Policy) and not isinstance(found, type) else found()
    except Exception as error:  # of any class: it is somebody's code
        raise ConfigError(
            f"--policy: cannot use {quoted(name)}: {type(error).__name__}: "
            f"{one_line(message_of(error), MESSAGE)}"
        ) from error
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"--policy: expected an object with check_reference and check_frames, found {quoted(name)}"
        )
    return policy
