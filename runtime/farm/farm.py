"""The farm: makes many shots on many workers, and retries the shots of workers that die.

Ray starts the workers and reports when one has died. Everything else is decided here, in a loop in one
thread. The state of a shot is in the output folder and not in memory, so a retried shot resumes from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ...engines.bundle import MANIFEST, read_manifest
from ...errors import ClusterError, ConfigError, DeviceError
from ...text import one_line
from ..animator import Animator
from ..shots.shot import Shot
from .cluster import connected, ended
from .job import Job, Key, LostAttempt, choose
from .report import FarmReport, ShotReport
from .worker import Result, ShotProgress, Worker, WorkerProcess

POLL_S = 0.25
TRIES = 5  # attempts without progress before a shot is given up; so many are hardly chance
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0  # delay before the first retry, which doubles each time, and its limit
CPUS_PER_WORKER = 4
MAX_STARTS = 5  # failures in a row after which a slot is given up
SILENCE_S = 1800.0  # after which a worker that does not answer is taken for dead; loading a bundle takes less
LOST_S, BUSY_S = 30.0, 600.0  # without any worker, if no host is large enough or if all hosts are in use
HOST_ERRORS = ("device", "bundle_mismatch")  # codes of errors that another worker may not have

NO_PROGRESS = ShotProgress()


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one worker at a time, which is replaced if it dies."""

    index: int
    worker: Any = None  # Ray's actor handle
    process: WorkerProcess | None = None  # None until the worker has started
    rank: int = 0  # unique among the workers of a host; selects their CPUs
    call: Any = None  # ObjectRef of the call in progress: Worker.process or Worker.make
    poll: Any = None  # ObjectRef of the progress poll in progress
    poll_s: float = 0.0  # when that poll was sent, in seconds from the start of the attempt
    job: Job | None = None
    shot_progress: ShotProgress = NO_PROGRESS  # result of the last poll
    shot_progress_s: float = 0.0  # when the last poll was sent, in seconds from the start of the attempt
    key: Key | None = None  # of the last shot
    failures: int = 0  # in a row: starts that failed, and host errors
    not_before_s: float = 0.0  # earliest time of the next start or shot


class Farm:
    """Runs one job list, once."""

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
        """`address` is a Ray cluster to join ("auto" or "host:port"). Without one, Ray is started here.

        A shot with a retryable error, or whose worker died, is retried until `tries` attempts in a row made
        no progress. `show` is called a few times per second; an exception from it stops the farm.
        """
        if tries < 1:
            raise ConfigError(f"tries: expected at least 1, found {tries}")
        if num_workers is not None and num_workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {num_workers}")
        self.address, self.num_workers, self.tries, self.force = address, num_workers, tries, force
        self.open_animator, self.show = open_animator, show
        self.report = FarmReport([ShotReport(shot.name, marks=shot.marks.record()) for shot in shots])
        self.waiting = [Job(shot, report) for shot, report in zip(shots, self.report.shots, strict=True)]
        self.slots: list[Slot] = []

    def run(self) -> FarmReport:
        """Make all shots that can be made.

        Raises DeviceError if no worker can start, and ClusterError if Ray fails or no host can run a worker.
        `report` is kept up to date, and stays valid if this raises.
        """
        with connected(self.address) as self.ray:
            num_workers, resources = self._plan_workers()
            self.actor = self.ray.remote(Worker).options(**resources, max_concurrency=2, max_restarts=0)
            self.cpus_each = 0 if resources["num_gpus"] else int(resources["num_cpus"])
            self.resources = resources
            needed = "a free GPU" if resources["num_gpus"] else f"{resources['num_cpus']} free CPUs"
            self.needed = self.report.waiting_for = f"a host with {needed}"
            self.slots = [Slot(index) for index in range(min(num_workers, len(self.waiting)))]
            self.report.num_workers = len(self.slots)
            self.began_s = monotonic()
            self.worker_s, self.check_s = 0.0, LOST_S
            try:
                while self.waiting or any(slot.job for slot in self.slots):
                    for slot in self.slots:
                        if slot.call is None:
                            self._give_work(slot)
                    self._collect_results()
                    self._poll_progress()
                    self._check_hosts()
                    self.report.wall_s = self.now_s
                    self.show(self.report)
            finally:
                for slot in self.slots:
                    self._stop_worker(slot)
        return self.report

    @property
    def now_s(self) -> float:
        return monotonic() - self.began_s

    def _plan_workers(self) -> tuple[int, dict[str, Any]]:
        """The number of workers and the resources of each: a GPU, or some of a host's CPUs."""
        hosts = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cpus, gpus = ([int(host.get(kind, 0)) for host in hosts] for kind in ("CPU", "GPU"))
        bundles = {job.shot.bundle for job in self.waiting}
        if any(read_manifest(bundle / MANIFEST)["backend"] == "tensorrt" for bundle in bundles):
            if not (num_gpus := sum(map(min, cpus, gpus))):
                raise DeviceError(
                    "farm: expected GPUs for TensorRT bundles, found none; join a cluster with --address"
                )
            return self.num_workers or num_gpus, {"num_cpus": 1, "num_gpus": 1}
        if not any(cpus):
            raise DeviceError("farm: expected CPUs, found none; start Ray's nodes with CPUs")
        large = sum(count // CPUS_PER_WORKER for count in cpus)
        num_workers = self.num_workers or large or sum(map(bool, cpus))
        return num_workers, {"num_cpus": share_of(cpus, num_workers), "num_gpus": 0}

    def _check_hosts(self) -> None:
        """Raise ClusterError if there has been no worker for so long that none is to be expected."""
        now_s = self.now_s
        if any(slot.process for slot in self.slots):
            self.worker_s, self.check_s, self.report.waiting_for = now_s, now_s + LOST_S, ""
        elif now_s >= self.check_s:
            self.check_s, self.report.waiting_for = now_s + LOST_S, self.needed
            alive = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
            if self.ray.get_runtime_context().get_node_id() not in alive:
                raise ended("its processes on this host died")
            wanted = (("CPU", self.resources["num_cpus"]), ("GPU", self.resources["num_gpus"]))
            large = any(all(host.get(kind, 0) >= count for kind, count in wanted) for host in alive.values())
            if not large or now_s - self.worker_s >= BUSY_S:
                raise ClusterError(
                    f"farm: expected {self.needed}, found {'none that is free' if large else 'none'} in "
                    f"{now_s - self.worker_s:.0f} s; the same command resumes when there is one"
                )

    def _give_work(self, slot: Slot) -> None:
        """Start a worker in an idle slot, or give its worker a shot."""
        now_s = self.now_s
        if now_s < slot.not_before_s or not self.waiting:
            return
        if slot.worker is None:
            slot.worker, slot.process = self.actor.remote(self.open_animator), None
            slot.call = slot.worker.process.remote()
            self.report.worker_starts += 1
            return
        taken = {other.key for other in self.slots if other is not slot and other.worker is not None}
        others = {other.index for other in self.slots if other.process} - {slot.index}
        ready = [job for job in self.waiting if job.not_before_s <= now_s]
        ready = [job for job in ready if slot.index not in job.excluded_slots or others <= job.excluded_slots]
        if job := choose(ready, slot.key, taken):
            self.waiting.remove(job)
            slot.job, slot.key, slot.poll = job, job.key, None
            slot.shot_progress, slot.shot_progress_s = NO_PROGRESS, 0.0
            cpus = range(slot.rank * self.cpus_each, (slot.rank + 1) * self.cpus_each)
            slot.call = slot.worker.make.remote(job.shot, self.force and not job.report.attempts, cpus)
            job.report.state, job.report.worker, job.report.began_s = "making", slot.index, now_s
            job.report.attempts += 1

    def _collect_results(self) -> None:
        """Wait up to POLL_S for calls to finish. Handle their results, and workers that died."""
        calls = {slot.call: slot for slot in self.slots if slot.call is not None}
        if not calls:
            sleep(POLL_S)  # all remaining work waits for its retry
            return
        finished, _ = self.ray.wait(list(calls), timeout=POLL_S)
        for call in finished:
            slot = calls[call]
            try:
                result = self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                self._on_death(slot, error)
                continue
            slot.call = None
            if isinstance(result, WorkerProcess):
                self._on_start(slot, result)
            else:
                self._on_result(slot, result)

    def _poll_progress(self) -> None:
        """Send a progress poll to each busy worker, or record the result of the last one."""
        for slot in self.slots:
            if slot.job and slot.poll is None:
                slot.poll = slot.worker.shot_progress.remote(slot.job.shot.name)
                slot.poll_s = self.now_s - slot.job.report.began_s
            elif slot.job and self.ray.wait([slot.poll], timeout=0)[0]:
                with suppress(self.ray.exceptions.RayError):  # _collect_results handles it
                    slot.shot_progress = self.ray.get(slot.poll)
                    slot.shot_progress_s = slot.poll_s
                    slot.job.report.update(*slot.shot_progress[1:])
                slot.poll = None
            elif slot.job and self.now_s - slot.job.report.began_s - slot.poll_s > SILENCE_S:
                self._on_death(slot, TimeoutError())

    def _on_start(self, slot: Slot, process: WorkerProcess) -> None:
        """A worker has started: give it the lowest rank that is free on its host."""
        taken = {other.rank for other in self.slots if other.process and other.process.host == process.host}
        slot.rank = min(set(range(len(taken) + 1)) - taken)
        slot.process = process

    def _on_result(self, slot: Slot, result: Result) -> None:
        """An attempt has finished or failed."""
        job = self._end_attempt(slot, result.shot_progress)
        job.report.update(*result.shot_progress[1:])
        if result.code in HOST_ERRORS:
            # A broken device fails each shot quickly, and would soon have tried the whole list.
            job.excluded_slots.add(slot.index)
            slot.failures += 1
            self._stop_worker(slot)
        else:
            slot.failures = 0
        if result.error:
            retryable = result.retryable or result.code in HOST_ERRORS
            self._retry_or_fail(job, result.error, result.code, retryable, result.shot_progress)
            return
        report = job.report
        report.state, report.error, report.code = "done", "", ""
        report.already = result.already and report.attempts == 1

    def _on_death(self, slot: Slot, error: Exception) -> None:
        """A worker has died: replace it, and retry its shot. Raises DeviceError if no slot is left."""
        process, job, shot_progress = slot.process, slot.job, slot.shot_progress
        slot.failures += job is None
        self._stop_worker(slot)
        if job is None:
            if slot.failures >= MAX_STARTS:
                self.slots.remove(slot)
            if not self.slots:
                raise DeviceError(f"farm: expected workers to start, they died: {one_line(str(error), 300)}")
            return
        lost = LostAttempt(shot_progress, slot.shot_progress_s, self.now_s - job.report.began_s)
        self._end_attempt(slot, shot_progress)
        job.lost = lost
        job.report.deaths += 1
        place = f"process {process.pid} on {process.host}" if process else "its process"
        message = f"worker {slot.index}, {place}, died while making it"
        self._retry_or_fail(job, message, "worker_died", True, shot_progress)

    def _stop_worker(self, slot: Slot) -> None:
        """Stop the worker of a slot if it is still alive. `_give_work` starts another after a delay."""
        if slot.worker is not None:
            self.ray.kill(slot.worker)
        slot.worker, slot.process, slot.call = None, None, None
        slot.not_before_s = self.now_s + backoff(max(slot.failures, 1))

    def _end_attempt(self, slot: Slot, shot_progress: ShotProgress) -> Job:
        """Record the end of an attempt and take its job out of the slot."""
        job, slot.job = slot.job, None
        assert job is not None
        job.report.ended_s = self.now_s
        job.report.busy_s += job.report.ended_s - job.report.began_s
        if job.lost:
            job.report.wasted_s += job.lost.wasted_s(shot_progress.resumed)
            job.lost = None
        return job

    def _retry_or_fail(
        self, job: Job, error: str, code: str, retryable: bool, shot_progress: ShotProgress
    ) -> None:
        """Queue a failed job again, or give it up."""
        made_progress = shot_progress.share > job.reached
        job.reached = max(job.reached, shot_progress.share)
        job.tries = 1 if made_progress else job.tries + 1
        job.report.error, job.report.code, job.report.retryable = one_line(error), code, retryable
        if retryable and job.tries < self.tries:
            job.not_before_s = self.now_s + backoff(job.tries)
            job.report.state = "waiting"
            self.waiting.append(job)
        else:
            job.report.state = "failed"


def share_of(cpus: Sequence[int], num_workers: int) -> float:
    """The largest number of CPUs per worker with which `num_workers` fit on hosts with `cpus` CPUs each."""
    for share in range(max(cpus), 0, -1):
        if sum(count // share for count in cpus) >= num_workers:
            return share
    # Fewer CPUs than workers: Ray also accepts a fraction of one CPU.
    return int(1000 / ceil(num_workers / sum(cpus))) / 1000


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S))
