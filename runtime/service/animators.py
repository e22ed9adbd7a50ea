"""The bundles of a service: each is loaded when it is first needed, within a memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock

from ...engines.bundle import Bundle, open_bundle, read_bundle
from ...errors import ConfigError, InputChanged, OutOfMemory
from ...text import quoted
from ..animator import Animator
from ..clip.memory_plan import plan_memory
from ..clip.options import ClipOptions
from ..shots.loaded_bundle import check_unchanged
from .speed import Speed

CHECK_S = 0.1  # between two looks at whether somebody who waits still wants to

Check = Callable[[], None]


class Place:
    """One bundle of a service, and its animator while it is loaded."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path
        self.bundle = open_bundle(path)  # the one that is loaded, or was when the service began
        self.speed = Speed()
        self.animator: Animator | None = None
        self.borrowers = 0
        self.used = 0  # the number of the last use, counting the uses of all bundles


class Animators:
    """Loads bundles and keeps as many of them as the budget allows; those unused for longest go first.

    `budget` is in bytes, None without limit. The bundle that is needed is loaded even if it takes more.
    """

    def __init__(self, bundles: Mapping[str, Path], budget: int | None, on_change: Callable[[int], None]):
        self.places = {name: Place(name, path) for name, path in bundles.items()}
        self.budget, self.on_change = budget, on_change
        self.loading = Lock()  # one at a time, so that the budget holds; clips run on meanwhile
        self.changed = Condition()
        self.uses = 0

    def find(self, name: str | None) -> Place:
        """The bundle with this name, or the only one. Raises ConfigError."""
        if name is None and len(self.places) == 1:
            return next(iter(self.places.values()))
        if name not in self.places:
            raise ConfigError(f"size: expected one of {', '.join(self.places)}, found {quoted(name)}")
        return self.places[name]

    def fits(self, place: Place) -> bool:
        """Whether a bundle can be loaded, or is, without another one having to go."""
        loaded = 0 if place.animator is not None else memory_of(place.bundle)
        return self.budget is None or self._loaded_bytes() + loaded <= self.budget

    @contextmanager
    def borrow(self, name: str, check: Check) -> Iterator[Animator]:
        """The animator of a bundle, which is loaded first if need be. Raises what `Animator.load` does.

        `check` is called again and again while other clips keep the memory; what it raises ends the wait.
        """
        place = self.places[name]
        animator = self._borrow_loaded(place) or self._borrow_cold(place, check)
        try:
            yield animator
        finally:
            with self.changed:
                place.borrowers -= 1
                self.changed.notify_all()

    def close(self) -> None:
        """Unload everything. No bundle may be borrowed."""
        for place in self.places.values():
            self._unload(place)

    def _borrow_loaded(self, place: Place) -> Animator | None:
        with self.changed:
            animator = place.animator
            if animator is None or has_changed(animator):
                return None
            place.borrowers += 1
            self.uses += 1
            place.used = self.uses
            return animator

    def _borrow_cold(self, place: Place, check: Check) -> Animator:
        while not self.loading.acquire(timeout=CHECK_S):
            check()
        try:
            if animator := self._borrow_loaded(place):
                return animator
            if place.animator is not None:  # its files were written to, and clips of it may still run
                with self.changed:
                    self._wait_until(lambda: not place.borrowers, check)
                self._unload(place)
            needed = memory_of(place.bundle)
            while self.budget is not None and self._loaded_bytes() + needed > self.budget:
                if not self._unload_oldest(check):
                    break
            animator = self._load(place, check)
            with self.changed:
                place.animator, place.bundle = animator, animator.bundle
                place.borrowers += 1
                self.uses += 1
                place.used = self.uses
            self._report()
            return animator
        finally:
            self.loading.release()

    def _wait_until(self, is_true: Callable[[], bool], check: Check) -> None:
        """Wait with `changed` held."""
        while not is_true():
            check()
            self.changed.wait(CHECK_S)

    def _load(self, place: Place, check: Check) -> Animator:
        while True:
            try:
                return Animator.load(place.path)
            except OutOfMemory:
                if not self._unload_oldest(check):
                    raise

    def _unload_oldest(self, check: Check) -> bool:
        """Unload the bundle unused for longest, once no clip uses it. False if none is loaded."""
        with self.changed:
            loaded = [place for place in self.places.values() if place.animator is not None]
            if not loaded:  # while one is loaded, no other is: `loading` is held
                return False
            self._wait_until(lambda: any(not place.borrowers for place in loaded), check)
            oldest = min((place for place in loaded if not place.borrowers), key=lambda place: place.used)
            animator, oldest.animator = oldest.animator, None
        assert animator is not None
        animator.close()
        self._report()
        return True

    def _unload(self, place: Place) -> None:
        animator, place.animator = place.animator, None
        if animator is not None:
            animator.close()
            self._report()

    def _loaded_bytes(self) -> int:
        return sum(memory_of(place.bundle) for place in self.places.values() if place.animator is not None)

    def _report(self) -> None:
        self.on_change(sum(place.animator is not None for place in self.places.values()))


def named(bundles: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Paths of bundles by name. Raises ConfigError if there are none, and what `read_bundle` raises."""
    if isinstance(bundles, Mapping):
        if not bundles:
            raise ConfigError("bundles: expected at least one, found none")
        return {name: Path(path) for name, path in bundles.items()}
    bucket = read_bundle(bundles).manifest.bucket
    return {f"{bucket.width}x{bucket.height}": Path(bundles)}


def memory_of(bundle: Bundle) -> int:
    """Bytes that a loaded bundle takes: its plan, plus twice its files where the plan states no weights."""
    plan = plan_memory(bundle, ClipOptions().resolve(bundle.manifest), bundle.manifest.bucket.window)
    files = sum(opened.file.num_bytes for opened in bundle.hashed.values())
    return plan.total + plan.encoders + (2 * files if plan.weights is None else 0)


def has_changed(animator: Animator) -> bool:
    """Whether a file of a loaded bundle was written to."""
    try:
        check_unchanged(animator.bundle)
    except InputChanged:
        return True
    return False
