"""A CPU device whose streams run with random delays: results must not depend on timing."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import sleep

from animate_rt.engines.cpu.device import CPUDevice, CPUStream


class DelayedStream(CPUStream):
    """Sleeps for a random time before every call."""

    def __init__(self, name: str, opened_s: float, chance: random.Random, longest_s: float):
        self.chance, self.longest_s = chance, longest_s
        super().__init__(name, opened_s)

    def call(self, function: Callable[[], object]) -> None:
        delay = self.chance.random() ** 4 * self.longest_s  # mostly short
        super().call(lambda: sleep(delay))
        super().call(function)


class DelayedDevice(CPUDevice):
    def __init__(self, seed: int, longest_s: float):
        super().__init__()
        self.chance, self.longest_s = random.Random(seed), longest_s

    def stream(self, name: str) -> CPUStream:
        stream = DelayedStream(name, self.opened_s, self.chance, self.longest_s)
        self.streams.add(stream)
        return stream
