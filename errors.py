"""Every error animate-rt raises on purpose.

    AnimateError
    |-- ConfigError        an option, or a combination of options, that cannot work
    |-- InputError         a reference image, pose sequence or noise file that cannot be used
    |   `-- InputMissing   there is no such file or directory
    |-- OutputError        a result that cannot be written (no room, no permission, name taken)
    |-- CheckpointError    weights or configs of a checkpoint that do not fit together
    |-- BundleError
    |   |-- BundleMismatch made for another version, backend or device: build it again
    |   `-- BundleCorrupt  its bytes are not the bytes that were built
    |-- BuildError         a graph that could not be exported or compiled
    |-- DeviceError        the device or its driver failed, or is missing
    |   `-- OutOfMemory
    |-- ShotsFailed        a farm has ended, and some of its shots were set aside
    |-- Regressed          a benchmark's result is slower than the one before
    |-- Rejected           the work was not accepted; nothing was started
    `-- Cancelled          the work was stopped on request

A message says what was expected, what was found and what to do. `code` is stable and meant for programs,
`retryable` says whether the same call may succeed later, `exit_status` is what the command line ends with
(the numbers are those of BSD sysexits.h where it has one).
"""

from __future__ import annotations

from typing import ClassVar


class AnimateError(Exception):
    """Base of all errors above; never raised itself."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 70


class ConfigError(AnimateError):
    """An option, or a combination of options, that cannot work."""

    code = "config"
    exit_status = 64


class InputError(AnimateError):
    """An input that is missing, unreadable or unusable."""

    code = "input"
    exit_status = 65


class InputMissing(InputError):
    """An input that is not there."""

    code = "input_missing"
    exit_status = 66


class OutputError(AnimateError):
    """A result that cannot be written; nothing stands under its final name."""

    code = "output"
    exit_status = 73


class CheckpointError(AnimateError):
    """Weights or configs of a checkpoint that do not fit together."""

    code = "checkpoint"
    exit_status = 65


class BundleError(AnimateError):
    """A bundle that cannot be used."""

    code = "bundle"
    exit_status = 65


class BundleMismatch(BundleError):
    """A bundle made for another version, backend or device."""

    code = "bundle_mismatch"
    exit_status = 69


class BundleCorrupt(BundleError):
    """A bundle whose bytes are not the bytes that were built."""

    code = "bundle_corrupt"


class BuildError(AnimateError):
    """A graph that could not be exported or compiled."""

    code = "build"
    exit_status = 70


class DeviceError(AnimateError):
    """A device or driver that failed or is missing."""

    code = "device"
    exit_status = 69


class OutOfMemory(DeviceError):
    """The device has no room for what was asked."""

    code = "out_of_memory"
    retryable = True
    exit_status = 75


class ShotsFailed(AnimateError):
    """A farm that has ended with shots set aside; all others are done."""

    code = "shots_failed"
    exit_status = 1


class Regressed(AnimateError):
    """A benchmark's result that is slower than the one before, past the threshold and past chance."""

    code = "regressed"
    exit_status = 1


class Rejected(AnimateError):
    """Work that was not accepted; nothing was started."""

    code = "rejected"
    retryable = True
    exit_status = 75


class Cancelled(AnimateError):
    """Work that was stopped on request."""

    code = "cancelled"
    exit_status = 130
