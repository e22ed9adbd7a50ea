"""The stand-in for NVRTC: the kernel `update` does what engines/device.py defines for `Update`."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory import Access
from .streams import GPU, INSTALLED, Task, api

# By C type, the Python types that cuda.core passes as that type; it passes a Python int as a pointer.
SCALARS: dict[str, tuple[type[Any], ...]] = {
    "float": (np.float32, ctypes.c_float),
    "bool": (np.bool_, ctypes.c_bool),
    "int": (np.int32, ctypes.c_int32),
    "long long": (np.int64, ctypes.c_int64),
}


@dataclass
class ProgramOptions:
    fma: bool = True


@dataclass
class LaunchConfig:
    grid: int
    block: int


class Program:
    def __init__(self, code: str, code_type: str, options: ProgramOptions):
        assert code_type == "c++"
        self.gpu = INSTALLED[0]
        self.code = code
        self.options = options

    @api(unsafe=True)
    def compile(self, target_type: str) -> ObjectCode:
        assert target_type == "cubin"
        return ObjectCode(self)


class ObjectCode:
    def __init__(self, program: Program):
        self.gpu, self.code, self.options = program.gpu, program.code, program.options

    def get_kernel(self, name: str) -> Kernel:
        signature = re.search(rf'extern "C" __global__ void {name}\(([^)]*)\)', self.code)
        if name != "update" or signature is None:
            self.gpu.refuse(f"{name}: no such kernel in the code, or one that the stand-in does not know")
        parameters = [part.replace("const ", "").split() for part in signature[1].split(",")]
        return Kernel(self.gpu, {words[-1]: " ".join(words[:-1]) for words in parameters}, self.options.fma)


@dataclass
class Kernel:
    gpu: GPU
    parameters: dict[str, str]  # name -> type
    fma: bool

    @api()
    def _launch(self, stream: Any, config: LaunchConfig, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            kind = self.parameters[name]
            if not isinstance(value, int if kind.endswith("*") else SCALARS[kind]):
                self.gpu.refuse(f"kernel argument {name}: expected {kind}, found {type(value).__name__}")
        values = {name: getattr(value, "value", value) for name, value in arguments.items()}
        count, first, last = int(values["count"]), values["first"], values["last"]
        if not 0 < config.block <= 1024 or config.grid * config.block < count:
            self.gpu.refuse(f"{config} does not cover {count} elements")
        writes = {"prediction": False}
        if last:
            writes["latents"] = True
            writes |= {name: False for name in ("earlier", "earliest") if values[name]}
            writes |= {"estimate": True} if values["estimate"] else {}
        if not (first and last):
            writes["total"] = not last
        accesses = []
        for name, write in writes.items():
            self.gpu.memory.find(values[name], 4 * count, f"the kernel's {name}", "device")
            accesses.append(Access(values[name], values[name] + 4 * count, write))
        self.gpu.enqueue(stream.queue, Task("an update", lambda: self._update(count, values), accesses))

    def _update(self, count: int, values: dict[str, Any]) -> None:
        def floats(name: str) -> Any:
            return self.gpu.memory.view(values[name], 4 * count, f"the kernel's {name}").view(np.float32)

        def number(name: str) -> np.float32:
            return np.float32(values[name])

        a, b = number("a"), number("b")
        value = floats("prediction") if values["first"] else floats("total") + floats("prediction")
        if not values["last"]:
            floats("total")[:] = value
        elif self.fma:  # the compiler's default: multiply and add are fused
            floats("latents")[:] = (np.float64(a) * floats("latents") + b * value).astype(np.float32)
        else:
            latents = floats("latents").copy()
            floats("latents")[:] = a * latents + b * value
            for name, factor in (("earlier", "factor"), ("earliest", "other")):
                if values[name]:
                    floats("latents")[:] += number(factor) * floats(name)
            if values["estimate"]:
                floats("estimate")[:] = number("of_latents") * latents + number("of_sum") * value


def launch(stream: Any, config: LaunchConfig, kernel: Kernel, *arguments: Any) -> None:
    kernel._launch(stream, config, dict(zip(kernel.parameters, arguments, strict=True)))
