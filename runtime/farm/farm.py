"""The farm: many shots on many workers, none lost whatever dies.

Ray starts the workers and tells when one has died; everything else is decided here, in one loop of one
thread. What is done and what is left of a shot is in the output folder and not in anyone's memory, so a shot
is simply started again: it goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from textwrap import shorten
from time import monotonic, sleep
from typing import Any, NamedTuple

from ...engines.bundle import MANIFEST, read_manifest
from ...errors import ConfigError, DeviceError
from ..animator import Animator
from ..shots.shot import Shot
from .cluster import connected
from .report import FarmReport, ShotReport
from .worker import Result, ShotProgress, Worker, WorkerProcess

POLL_S = 0.25
TRIES = 5  # chance alone does not kill a shot so often at one place
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0  # before what failed is tried again; doubles each time
CPUS_PER_WORKER = 4
MAX_STARTS = 5  # of a worker that dies each time before it is there
HOST_ERRORS = ("device", "bundle_mismatch")  # codes of what another worker may not fail of

BEGINNING = ShotProgress()

Key = tuple[Path, Path]  # bundle and reference: shots that share both belong to one worker


class LostAttempt(NamedTuple):
    """An attempt whose worker died: where it stood when last asked, how long after its beginning, its end."""

    shot_progress: ShotProgress
    shot_progress_s: float
    ended_s: float

    def wasted_s(self, resumed: float) -> float:
        """About how much of it is done again, by the share of the shot where the next attempt resumed."""
        began, reached = self.shot_progress.began, self.shot_progress.share
        if reached <= began:
            return self.ended_s
        useful_s = self.shot_progress_s * (resumed - began) / (reached - began)
        return min(max(self.ended_s - useful_s, 0.0), self.ended_s)


@dataclass(slots=True, eq=False)
class Job:
    """A shot that is not done."""

    shot: Shot
    report: ShotReport
    tries: int = 0  # in a row that came no further than those before
    reached: float = 0.0  # share of the shot, at best
    not_before: float = 0.0
    lost: LostAttempt | None = None  # the last attempt, if it died
    excluded_slots: set[int] = field(default_factory=set)  # slots where it failed for reasons of the host

    @property
    def key(self) -> Key:
        return self.shot.bundle, self.shot.reference


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker, and who is in it."""

    index: int
    worker: Any = None  # Ray's handle
    where: WorkerProcess | None = None  # once it is there
    rank: int = 0  # among those of its host: no two have the same
    asked: Any = None  # Ray's promise of what it is doing
    polled: Any = None  # of how far it is
    polled_s: float = 0.0  # how long after the shot's beginning it was asked that
    job: Job | None = None
    shot_progress: ShotProgress = BEGINNING
    shot_progress_s: float = 0.0  # how long after its beginning the shot stood there
    key: Key | None = None  # of its last shot
    failures: int = 0  # in a row, to start or for reasons of its host
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
        """Make all shots that can be made. Raises DeviceError where no worker can be had. `report` says how
        far it is, however this ends."""
        with connected(self.address) as self.ray:
            num_workers, resources = self._plan()
            self.actor = self.ray.remote(Worker).options(**resources, max_concurrency=2, max_restarts=0)
            self.cpus_each = 0 if resources["num_gpus"] else int(resources["num_cpus"])
            asked = "a GPU" if resources["num_gpus"] else f"{resources['num_cpus']} CPUs"
            self.report.missing = f"a host with {asked} to spare"
            self.slots = [Slot(index) for index in range(min(num_workers, len(self.waiting)))]
            self.report.num_workers = len(self.slots)
            self.began_s = monotonic()
            try:
                while self.waiting or any(slot.job for slot in self.slots):
                    for slot in self.slots:
                        if slot.asked is None:
                            self._ask(slot)
                    self._listen()
                    self._poll()
                    self.report.wall_s = self.now_s
                    self.show(self.report)
            finally:
                for slot in self.slots:
                    self._let_go(slot)
        return self.report

    @property
    def now_s(self) -> float:
        return monotonic() - self.began_s

    def _plan(self) -> tuple[int, dict[str, Any]]:
        """How many workers, and what each is given: a GPU, or a share of the CPUs."""
        hosts = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cpus, gpus = ([int(host.get(kind, 0)) for host in hosts] for kind in ("CPU", "GPU"))
        bundles = {job.shot.bundle for job in self.waiting}
        if any(read_manifest(bundle / MANIFEST)["backend"] == "tensorrt" for bundle in bundles):
            if not (num_gpus := sum(map(min, cpus, gpus))):
                raise DeviceError(
                    "farm: expected GPUs for bundles of tensorrt, found none; join a cluster with --address"
                )
            return self.num_workers or num_gpus, {"num_cpus": 1, "num_gpus": 1}
        if not any(cpus):
            raise DeviceError("farm: expected CPUs, found none; start Ray's hosts with some")
        large = sum(count // CPUS_PER_WORKER for count in cpus)
        num_workers = self.num_workers or large or sum(map(bool, cpus))
        return num_workers, {"num_cpus": share_of(cpus, num_workers), "num_gpus": 0}

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
        others = {other.index for other in self.slots if other.where} - {slot.index}
        ready = [job for job in self.waiting if job.not_before <= now_s]
        ready = [job for job in ready if slot.index not in job.excluded_slots or others <= job.excluded_slots]
        if job := choose(ready, slot.key, taken):
            self.waiting.remove(job)
            slot.job, slot.key, slot.polled = job, job.key, None
            slot.shot_progress, slot.shot_progress_s = BEGINNING, 0.0
            cpus = range(slot.rank * self.cpus_each, (slot.rank + 1) * self.cpus_each)
            slot.asked = slot.worker.make.remote(job.shot, self.force and not job.report.attempts, cpus)
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
            except self.ray.exceptions.RayError as error:
                self._died(slot, error)
                continue
            slot.asked = None
            if isinstance(answer, WorkerProcess):
                self._arrived(slot, answer)
            else:
                self._answered(slot, answer)

    def _poll(self) -> None:
        """How far the shots are, as of the last time it was asked."""
        for slot in self.slots:
            if slot.job and slot.polled is None:
                slot.polled = slot.worker.shot_progress.remote(slot.job.shot.name)
                slot.polled_s = self.now_s - slot.job.report.began_s
            elif slot.job and self.ray.wait([slot.polled], timeout=0)[0]:
                with suppress(self.ray.exceptions.RayError):  # heard where it was asked for the shot
                    slot.shot_progress = self.ray.get(slot.polled)
                    slot.shot_progress_s = slot.polled_s
                    slot.job.report.stands(*slot.shot_progress[1:])
                slot.polled = None

    def _arrived(self, slot: Slot, where: WorkerProcess) -> None:
        taken = {other.rank for other in self.slots if other.where and other.where.host == where.host}
        slot.rank = min(set(range(len(taken) + 1)) - taken)
        slot.where, self.report.missing = where, ""

    def _answered(self, slot: Slot, result: Result) -> None:
        job = self._leave(slot, result.shot_progress)
        job.report.stands(*result.shot_progress[1:])
        if result.code in HOST_ERRORS:
            # A broken device fails at once, and would soon have had the whole list.
            job.excluded_slots.add(slot.index)
            slot.failures += 1
            self._let_go(slot)
        else:
            slot.failures = 0
        if result.error:
            retryable = result.retryable or result.code in HOST_ERRORS
            self._failed(job, result.error, result.code, retryable, result.shot_progress)
            return
        report = job.report
        report.state, report.error, report.code = "done", "", ""
        report.already = result.already and report.attempts == 1

    def _died(self, slot: Slot, error: Exception) -> None:
        """A worker is gone: its place is filled again, and its shot tried again."""
        where, job, shot_progress = slot.where, slot.job, slot.shot_progress
        slot.failures += job is None
        self._let_go(slot)
        if job is None:
            if slot.failures >= MAX_STARTS:
                self.slots.remove(slot)
            if not self.slots:
                reason = shorten(str(error), 300)  # Ray's may be a page
                raise DeviceError(f"farm: expected workers to start, they died: {reason}")
            return
        lost = LostAttempt(shot_progress, slot.shot_progress_s, self.now_s - job.report.began_s)
        self._leave(slot, shot_progress)
        job.lost = lost
        job.report.deaths += 1
        process = f"process {where.pid} on {where.host}" if where else "its process"
        self._failed(
            job, f"worker {slot.index}, {process}, died while making it", "worker_died", True, shot_progress
        )

    def _let_go(self, slot: Slot) -> None:
        """End a worker, if it is not dead; another comes a little later."""
        if slot.worker is not None:
            self.ray.kill(slot.worker)
        slot.worker, slot.where, slot.asked = None, None, None
        slot.not_before = self.now_s + backoff(max(slot.failures, 1))

    def _leave(self, slot: Slot, shot_progress: ShotProgress) -> Job:
        """Note the end of an attempt."""
        job, slot.job = slot.job, None
        assert job is not None
        job.report.ended_s = self.now_s
        job.report.busy_s += job.report.ended_s - job.report.began_s
        if job.lost:
            job.report.wasted_s += job.lost.wasted_s(shot_progress.began)
            job.lost = None
        return job

    def _failed(self, job: Job, error: str, code: str, retryable: bool, shot_progress: ShotProgress) -> None:
        further = shot_progress.share > job.reached
        job.reached = max(job.reached, shot_progress.share)
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
    finds its reference there, else one whose reference nobody has, else any; of these, one of its bundle."""

    def preference(job: Job) -> tuple[bool, bool, bool]:
        return job.key != last, job.key in taken, last is None or job.shot.bundle != last[0]

    return min(waiting, key=preference, default=None)


def share_of(cpus: Sequence[int], num_workers: int) -> float:
    """The most CPUs that each of so many workers can have on hosts with that many, none of them on two."""
    for share in range(max(cpus), 0, -1):
        if sum(count // share for count in cpus) >= num_workers:
            return share
    # Ray gives whole CPUs, or a part of one.
    return int(1000 / ceil(num_workers / sum(cpus))) / 1000


def backoff(failures: int) -> float:
    return float(min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S))
