"""The exceptions that animate-rt raises.

    AnimateError
    |-- ConfigError        an invalid option or combination of options
    |-- InputError         a reference image, pose sequence or noise file that cannot be used
    |   |-- InputMissing   there is no such file or directory
    |   `-- InputChanged   an input changed while it was in use: try again
    |-- OutputError        a result that cannot be written (no room, no permission, name taken)
    |-- CheckpointError    weights or configs of a checkpoint that do not fit together
    |-- BundleError
    |   |-- BundleMismatch built for another version, backend or device: build it again
    |   `-- BundleCorrupt  its files have changed since it was built
    |-- BuildError         a graph that could not be exported or compiled
    |-- DeviceError        the device or its driver failed, or is missing
    |   |-- OutOfMemory
    |   `-- ClusterError   Ray did not start, did not answer or died: try again
    |-- ShotsFailed        a farm has finished, and some of its shots have failed
    |-- Regressed          a benchmark result is slower than the previous one
    |-- Refused            a policy does not allow this content
    |-- Rejected           the work was not accepted; nothing was started
    |   |-- QueueFull      a service has as many queued jobs as it takes: try again later
    |   `-- ServiceClosed  a service that is shutting down
    |-- DeadlineMissed     a job that cannot end before its deadline
    |-- KeyReused          an idempotency key that belongs to another request
    `-- Cancelled          the work was stopped on request

A message is one printable line: what was expected, what was found and what to do. `code` is a stable name for
programs, `retryable` says whether the same call may succeed later, and `exit_status` is the exit status of
the command line (from BSD sysexits.h, if it defines one for this case). Those that library calls raise can be
imported from `animate_rt`.
"""

from __future__ import annotations

from typing import ClassVar

from .text import escaped


class AnimateError(Exception):
    """Base class of all exceptions above; never raised itself. Its message may be of any characters."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str = ""):
        super().__init__(escaped(message))


class ConfigError(AnimateError):
    """An invalid option or combination of options."""

    code = "config"
    exit_status = 64


class InputError(AnimateError):
    """An input that is missing, unreadable or unusable."""

    code = "input"
    exit_status = 65


class InputMissing(InputError):
    """An input file or directory that does not exist."""

    code = "input_missing"
    exit_status = 66


class InputChanged(InputError):
    """An input that changed while it was in use. Raised only by the commands that make shots."""

    code = "input_changed"
    retryable = True
    exit_status = 75


class OutputError(AnimateError):
    """A result that cannot be written. No incomplete file is left under its final name."""

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
    """A bundle built for another version, backend or device."""

    code = "bundle_mismatch"
    exit_status = 69


class BundleCorrupt(BundleError):
    """A bundle whose files have changed since it was built."""

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
    """The device has too little free memory."""

    code = "out_of_memory"
    retryable = True
    exit_status = 75


class ClusterError(DeviceError):
    """Ray did not start, did not answer or died; the same farm resumes. Raised only by the command `farm`."""

    code = "cluster"
    retryable = True


class ShotsFailed(AnimateError):
    """A farm that has finished with failed shots. Raised only by the command `farm`."""

    code = "shots_failed"
    exit_status = 1


class Regressed(AnimateError):
    """A benchmark result slower than the previous one, by more than the threshold and more than chance.

    Raised only by the command `bench compare`.
    """

    code = "regressed"
    exit_status = 1


class Refused(AnimateError):
    """Content that a policy does not allow. Its message names pictures by their digest only."""

    code = "content_policy"
    exit_status = 77


class Rejected(AnimateError):
    """Work that was not accepted; nothing was started."""

    code = "rejected"
    retryable = True
    exit_status = 75


class QueueFull(Rejected):
    """A service that has as many queued jobs as it takes. Try again after `retry_after_s` seconds."""

    code = "queue_full"

    def __init__(self, message: str = "", retry_after_s: float = 1.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceClosed(Rejected):
    """A service that is shutting down and takes no more jobs."""

    code = "service_closed"


class DeadlineMissed(AnimateError):
    """A job that cannot end before its deadline; it was refused, or ended early."""

    code = "deadline_missed"
    exit_status = 75


class KeyReused(AnimateError):
    """An idempotency key that was used for another request."""

    code = "key_reused"
    exit_status = 64


class Cancelled(AnimateError):
    """Work that was stopped on request."""

    code = "cancelled"
    exit_status = 130
