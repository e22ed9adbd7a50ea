"""A CPU with little memory, which records what is allocated and released."""

from __future__ import annotations

from animate_rt import OutOfMemory
from animate_rt.engines.contract import DType
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.device import Buffer


class SmallDevice(CPUDevice):
    """Has `room` bytes left on the device. Records the shapes allocated there, and all that are released."""

    def __init__(self, room: int = 1 << 40):
        super().__init__()
        self.room = room
        self.allocated: list[tuple[int, ...]] = []
        self.released: list[tuple[int, ...]] = []

    def buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        buffer = super().buffer(dtype, shape)
        if buffer.num_bytes > self.room:
            raise OutOfMemory(f"no room for {dtype} {shape}")
        self.room -= buffer.num_bytes
        self.allocated.append(shape)
        return buffer

    def host_buffer(self, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        buffer = CPUDevice().buffer(dtype, shape)
        buffer.of_host = True
        return buffer

    def release(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            self.released.append(buffer.shape)
            self.room += 0 if buffer.of_host else buffer.num_bytes
