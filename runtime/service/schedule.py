"""The schedule: which job the device takes next, and which one makes room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Event
from time import monotonic

from .job import Job

TURN_S = 30.0  # how long a job may run while a shorter one waits
SLACK = 1.5  # a job must be that many times as long as a waiting one to make room for it


@dataclass(eq=False)
class Entry:
    """A job in the schedule. `seconds_left` is the time of its work on a device of its own."""

    job: Job
    seconds_left: Callable[[], float | None]
    since: float  # when it began to wait or to run
    pause: Event = field(default_factory=Event)
    promised: bool = False  # a job pauses for this one


class Schedule:
    """Waiting jobs, and the `num_active` that run.

    The shortest job goes first, but one that has waited for `turn_s` goes before those that came later. If
    all places are taken, the longest job that has run for `turn_s` pauses for the shortest one that waits,
    unless they are about as long. So a job waits for longer ones at most `turn_s` and the time of a snapshot,
    and no job waits for ever. A job whose driving video is being extracted pauses after that: keypoints are
    kept when all are there.
    """

    def __init__(self, num_active: int, turn_s: float = TURN_S, clock: Callable[[], float] = monotonic):
        self.num_active, self.turn_s, self.clock = num_active, turn_s, clock
        self.changed = Condition()
        self.waiting: list[Entry] = []
        self.active: list[Entry] = []
        self.closed = False

    def put(self, job: Job, seconds_left: Callable[[], float | None]) -> None:
        """Add a job that waits from now on."""
        with self.changed:
            self.waiting.append(Entry(job, seconds_left, self.clock()))
            self.changed.notify_all()

    def take(self) -> Entry | None:
        """Wait for the next job, and mark it as active. None when the schedule is closed."""
        with self.changed:
            while not self.closed:
                if self.waiting and len(self.active) < self.num_active:
                    entry = self._order()[0]
                    self.waiting.remove(entry)
                    self.active.append(entry)
                    entry.since = self.clock()
                    self.changed.notify_all()
                    return entry
                self.changed.wait()
            return None

    def should_pause(self, entry: Entry) -> bool:
        """Whether an active job should pause. Asked before every task: nothing else tells that turns end."""
        with self.changed:
            self._make_room()
            return entry.pause.is_set()

    def put_back(self, entry: Entry) -> None:
        """A paused job waits again."""
        with self.changed:
            self.active.remove(entry)
            self.waiting.append(Entry(entry.job, entry.seconds_left, self.clock()))
            self.changed.notify_all()

    def end(self, entry: Entry) -> None:
        with self.changed:
            self.active.remove(entry)
            self.changed.notify_all()

    def remove(self, job: Job) -> bool:
        """Take a waiting job out. False if it is not waiting."""
        with self.changed:
            found = [entry for entry in self.waiting if entry.job is job]
            self.waiting = [entry for entry in self.waiting if entry.job is not job]
            self.changed.notify_all()
            return bool(found)

    def close(self) -> None:
        """Let `take` return None. Jobs that wait are left."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def wait_until_idle(self, timeout: float | None) -> bool:
        """Wait until no job waits or is active. False if that takes longer."""
        with self.changed:
            return self.changed.wait_for(lambda: not (self.waiting or self.active), timeout)

    def seconds_ahead(self, of: Job | None = None) -> float:
        """Expected seconds until a waiting job begins; of None, until one that is added now would.

        Counted as if one job ran after another: jobs that share the device take as long together.
        """
        with self.changed:
            ahead = self._order()
            if of is not None:
                jobs = [entry.job for entry in ahead]
                ahead = ahead[: jobs.index(of)] if of in jobs else []
            return sum(map(expected, (*self.active, *ahead)))

    def seconds_to_room(self) -> float:
        """Expected seconds until an active job has ended, so that a waiting one begins."""
        with self.changed:
            return len(self.active) * min(map(expected, self.active), default=0.0)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    def num_running(self) -> int:
        return len(self.active)

    def waiting_jobs(self) -> list[Job]:
        with self.changed:
            return [entry.job for entry in self.waiting]

    def pause_all(self) -> None:
        """Ask all active jobs to pause, and give no more jobs out."""
        with self.changed:
            self.closed = True
            for entry in self.active:
                entry.pause.set()
            self.changed.notify_all()

    def position(self, job: Job) -> int:
        """The number of jobs that wait before this one."""
        with self.changed:
            jobs = [entry.job for entry in self._order()]
            return jobs.index(job) if job in jobs else 0

    def _order(self) -> list[Entry]:
        """Waiting jobs, the next one first."""
        now = self.clock()

        def rank(entry: Entry) -> tuple[bool, bool, float, float]:
            late = now - entry.since >= self.turn_s
            return not entry.promised, not late, 0.0 if late else expected(entry), entry.since

        return sorted(self.waiting, key=rank)

    def _make_room(self) -> None:
        """Ask an active job to pause if the shortest waiting one should not wait for it any longer."""
        if len(self.active) < self.num_active or any(entry.promised for entry in self.waiting):
            return
        now = self.clock()
        had_turn = [entry for entry in self.active if now - entry.since >= self.turn_s]
        if not (had_turn and self.waiting):
            return
        longest, shortest = max(had_turn, key=expected), min(self.waiting, key=expected)
        if expected(longest) > SLACK * expected(shortest):
            longest.pause.set()
            shortest.promised = True


def expected(entry: Entry) -> float:
    """Seconds that a job will still take; 0 while nothing is measured."""
    return entry.seconds_left() or 0.0
