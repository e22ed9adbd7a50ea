"""The farm: many shots on many workers, none lost whatever dies.

Ray starts the workers and tells when one has died; everything else is decided here, in one loop of one
thread. What is done and what is left of a shot is in the output folder and not in anyone's memory, so a shot
is simply started again: it goes on from where it was.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from ..engines.bundle import MANIFEST, read_manifest
from ..errors import ConfigError, DeviceError
from .animator import Animator
from .report import FarmReport, ShotReport
from .shot import Shot
from .worker import Result, Standing, Where, Worker

POLL_S = 0.25
TRIES = 5  # chance alone does not kill a shot so often at one place
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0  # before what failed is tried again; doubles each time
CPUS_PER_WORKER = 4
MAX_STARTS = 5  # of a worker that dies each time before it is there
INSTALL = "pip install 'animate-rt[farm]'"

BEGINNING = Standing()

Key = tuple[Path, Path]  # bundle and reference: shots that share both belong to one worker


class Lost(NamedTuple):
    """An attempt that died: where it stood when last asked, how long after its beginning, and its end."""

    standing: Standing
    standing_s: float
    ended_s: float

    def wasted_s(self, resumed: float) -> float:
        """About how much of it is done again, by the share of the shot where the next attempt resumed."""
        began, reached = self.standing
        if reached <= began:
            return self.ended_s
        useful_s = self.standing_s * (resumed - began) / (reached - began)
        return min(max(self.ended_s - useful_s, 0.0), self.ended_s)


@dataclass(slots=True, eq=False)
class Job:
    """A shot that is not done."""

    shot: Shot
    report: ShotReport
    tries: int = 0  # in a row that came no further than those before
    reached: float = 0.0  # share of the shot, at best
    not_before: float = 0.0
    lost: Lost | None = None  # the last attempt, if it died

    @property
    def key(self) -> Key:
        return self.shot.bundle, self.shot.reference


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker, and who is in it."""

    index: int
    worker: Any = None  # Ray's handle
    where: Where | None = None  # once it is there
    asked: Any = None  # Ray's promise of what it is doing
    polled: Any = None  # of how far it is
    job: Job | None = None
    standing: Standing = BEGINNING
    standing_s: float = 0.0  # how long after its beginning the shot stood there
    key: Key | None = None  # of its last shot
    failed_starts: int = 0  # in a row
    not_before: float = 0.0


class Farm:
    """One job list on its way. Used once."""

    def __init__(
        self,
        shots: Sequence[Shot],
        *,
        address: str | None = None,
        num_workers: int | None = None,
        tries: int = TRIES,
        force: bool = False,
        open_animator: Callable[[Path], Animator] = Animator.load,
        show: Callable[[FarmReport], None] = lambda _report: None,
    ):
        """Without an address a Ray of its own is started; with one ("auto", "host:port") it is joined.

        A shot that fails for a reason that may pass, or whose worker dies, is tried again: `tries` times
        without coming further than before. `show` is called a few times per second; what it raises stops the
        farm.
        """
        if tries < 1:
            raise ConfigError(f"tries: expected at least 1, found {tries}")
        if num_workers is not None and num_workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {num_workers}")
        self.address, self.num_workers, self.tries, self.force = address, num_workers, tries, force
        self.open_animator, self.show = open_animator, show
        self.report = FarmReport([ShotReport(shot.name) for shot in shots])
        self.waiting = [Job(shot, report) for shot, report in zip(shots, self.report.shots, strict=True)]
        self.slots: list[Slot] = []

    def run(self) -> FarmReport:
        """Make all shots that can be made. Raises DeviceError where no worker can be had."""
        with connected(self.address) as self.ray:
            num_workers, resources = self._plan()
            self.actor = self.ray.remote(Worker).options(**resources, max_concurrency=2, max_restarts=0)
            self.cpus_each = 0 if resources["num_gpus"] else int(resources["num_cpus"])
            self.slots = [Slot(index) for index in range(min(num_workers, len(self.waiting)))]
            self.report.num_workers = len(self.slots)
            self.began_s = monotonic()
            while self.waiting or any(slot.job for slot in self.slots):
                for slot in self.slots:
                    if slot.asked is None:
                        self._ask(slot)
                self._listen()
                self._poll()
                self.report.wall_s = self.now_s
                self.show(self.report)
        return self.report

    @property
    def now_s(self) -> float:
        return monotonic() - self.began_s

    def _plan(self) -> tuple[int, dict[str, Any]]:
        """How many workers, and what each is given: a GPU, or a share of the CPUs."""
        total = self.ray.cluster_resources()
        bundles = {job.shot.bundle for job in self.waiting}
        if any(read_manifest(bundle / MANIFEST)["backend"] == "tensorrt" for bundle in bundles):
            if not (num_gpus := int(total.get("GPU", 0))):
                raise DeviceError(
                    "farm: expected GPUs for bundles of tensorrt, found none; join a cluster with --address"
                )
            return self.num_workers or num_gpus, {"num_cpus": 1, "num_gpus": 1}
        num_cpus = total.get("CPU", 1.0)
        num_workers = self.num_workers or max(int(num_cpus) // CPUS_PER_WORKER, 1)
        share = num_cpus / num_workers
        # Ray gives whole CPUs, or a part of one.
        return num_workers, {
            "num_cpus": int(share) if share >= 1 else int(1000 * share) / 1000,
            "num_gpus": 0,
        }

    def _ask(self, slot: Slot) -> None:
        """Give a slot that has nothing to do a worker, or its worker a shot."""
        now_s = self.now_s
        if now_s < slot.not_before or not self.waiting:
            return
        if slot.worker is None:
            slot.worker, slot.where = self.actor.remote(self.open_animator), None
            slot.asked = slot.worker.where.remote()
            self.report.worker_starts += 1
            return
        taken = {other.key for other in self.slots if other is not slot and other.worker is not None}
        if job := choose([job for job in self.waiting if job.not_before <= now_s], slot.key, taken):
            self.waiting.remove(job)
            slot.job, slot.key, slot.polled = job, job.key, None
            slot.standing, slot.standing_s = BEGINNING, 0.0
            slot.asked = slot.worker.make.remote(job.shot, self.force and not job.report.attempts)
            job.report.state, job.report.worker, job.report.began_s = "making", slot.index, now_s
            job.report.attempts += 1

    def _listen(self) -> None:
        """Hear from the workers what they have finished, and that they have died."""
        asked = {slot.asked: slot for slot in self.slots if slot.asked is not None}
        if not asked:
            sleep(POLL_S)  # all that is left is to be tried again a little later
            return
        answers, _ = self.ray.wait(list(asked), timeout=POLL_S)
        for promise in answers:
            slot = asked[promise]
            try:
                answer = self.ray.get(promise)
            except self.ray.exceptions.RayActorError as error:
                self._died(slot, error)
                continue
            slot.asked = None
            if isinstance(answer, Where):
                self._arrived(slot, answer)
            else:
                self._answered(slot, answer)

    def _poll(self) -> None:
        """How far the shots are, as of the last time it was asked."""
        for slot in self.slots:
            if slot.job and slot.polled is None:
                slot.polled = slot.worker.standing.remote()
            elif slot.job and self.ray.wait([slot.polled], timeout=0)[0]:
                with suppress(self.ray.exceptions.RayActorError):  # heard where it was asked for the shot
                    slot.standing = self.ray.get(slot.polled)
                    slot.standing_s = self.now_s - slot.job.report.began_s
                    slot.job.report.share = slot.standing.share
                slot.polled = None

    def _arrived(self, slot: Slot, where: Where) -> None:
        slot.where, slot.failed_starts = where, 0
        rank = sum(1 for other in self.slots[: slot.index] if other.where and other.where.host == where.host)
        slot.worker.settle.remote(rank, self.cpus_each)

    def _answered(self, slot: Slot, result: Result) -> None:
        job = self._leave(slot, result.standing)
        if result.error:
            self._failed(job, result.error, result.code, result.retryable, result.standing)
            return
        report = job.report
        report.state, report.share, report.error, report.code = "done", 1.0, "", ""
        report.num_frames, report.num_kept = result.num_frames, result.num_kept
        report.already = result.already and report.attempts == 1

    def _died(self, slot: Slot, error: Exception) -> None:
        """A worker is gone: its place is filled again, and its shot tried again."""
        where, slot.worker, slot.where, slot.asked = slot.where, None, None, None
        slot.failed_starts += 1  # until one has arrived
        slot.not_before = self.now_s + backoff(slot.failed_starts)
        if slot.job is None:
            if slot.failed_starts >= MAX_STARTS:
                reason = " ".join(str(error).split())
                raise DeviceError(f"farm: expected worker {slot.index} to start, it died: {reason}")
            return
        standing, job = slot.standing, slot.job
        lost = Lost(standing, slot.standing_s, self.now_s - job.report.began_s)
        self._leave(slot, standing)
        job.lost = lost
        job.report.deaths += 1
        process = f"process {where.pid} on {where.host}" if where else "its process"
        self._failed(
            job, f"worker {slot.index}, {process}, died while making it", "worker_died", True, standing
        )

    def _leave(self, slot: Slot, standing: Standing) -> Job:
        """Note the end of an attempt."""
        job, slot.job = slot.job, None
        assert job is not None
        job.report.ended_s = self.now_s
        job.report.busy_s += job.report.ended_s - job.report.began_s
        if job.lost:
            job.report.wasted_s += job.lost.wasted_s(standing.began)
            job.lost = None
        return job

    def _failed(self, job: Job, error: str, code: str, retryable: bool, standing: Standing) -> None:
        further = standing.share > job.reached
        job.reached = max(job.reached, standing.share)
        job.tries = 1 if further else job.tries + 1
        job.report.error, job.report.code, job.report.retryable = error, code, retryable
        if retryable and job.tries < self.tries:
            job.not_before = self.now_s + backoff(job.tries)
            job.report.state = "waiting"
            self.waiting.append(job)
        else:
            job.report.state = "failed"


def choose(waiting: Sequence[Job], last: Key | None, taken: Collection[Key | None]) -> Job | None:
    """The next shot for a worker whose last one had the key `last`, when others have those `taken`: one that
    finds its reference there, else one whose reference nobody has, else any."""
    for wanted in (lambda key: key == last, lambda key: key not in taken, lambda _key: True):
        for job in waiting:
            if wanted(job.key):
                return job
    return None


def backoff(failures: int) -> float:
    return float(min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S))


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray: a cluster that is there, or one of this process alone, which leaves nothing behind."""
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
            folder = tempfile.TemporaryDirectory(prefix="farm-", ignore_cleanup_errors=True)
            quiet |= {"include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        stack.callback(ray.shutdown)
        try:
            ray.init(address=address or "local", **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DeviceError(f"farm: expected a Ray at {address or 'this machine'}: {reason}") from error
        yield ray
