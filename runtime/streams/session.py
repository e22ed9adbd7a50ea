"""The session: a bundle on a device, its engines and the streams they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from ...engines import contract
from ...engines.bundle import Bundle
from ...engines.device import Device
from ...engines.engine import Engine
from .engine_stream import BoundEngine, EngineStream
from .operations import Observer, StreamScheduler
from .pool import Pool

LoadEngine = Callable[[Bundle, str, Device], Engine]


class Session:
    """Four kinds of streams: `prepare`, one or more `denoise`, `decode` and `copy_out`.

    All engines are loaded here except the denoising UNet's two variants, each of which is loaded when a clip
    first needs it. Safe to use from several threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        load: LoadEngine,
        denoise_streams: int = 1,
        observe: Observer | None = None,
    ):
        self.bundle, self.device, self.load = bundle, device, load
        self.device.activate()
        self.scheduler, self.pool = StreamScheduler(device, observe), Pool(device)
        self.engines: dict[str, Engine] = {}
        self.loading = Lock()
        self.prepare = self._stream("prepare", contract.PREPARE)
        self.denoise = [self._stream(f"denoise {i}", contract.UNETS) for i in range(denoise_streams)]
        self.decode = self._stream("decode", (contract.VAE_DECODER,))
        self.copy_out = device.stream("copy out")
        for graph in bundle.manifest.graphs:
            if graph not in contract.UNETS:
                self.engines[graph] = load(bundle, graph, device)

    def engine(self, graph: str) -> Engine:
        """The engine of a graph; a variant of the UNet is loaded, after the bundle has been verified again,
        if it was not used before."""
        if graph not in self.engines:
            with self.loading:
                self.scheduler.check_open()
                if graph not in self.engines:
                    self.bundle.verify()
                    self.device.activate()  # this thread may be new to the device
                    self.engines[graph] = self.load(self.bundle, graph, self.device)
        return self.engines[graph]

    def bound(self, stream: EngineStream, graph: str) -> BoundEngine:
        """A loaded engine on a stream. Called with the scheduler held."""
        return stream.bound_engine(graph, self.engines[graph])

    def close(self) -> bool:
        """Release engines and all memory; False if that was done before. Later work is Rejected."""
        with self.scheduler.lock:
            if self.scheduler.closed:
                return False
            self.scheduler.closed = True
            try:
                self.device.activate()
            finally:
                self.device.close()
            for stream in (self.prepare, self.decode, *self.denoise):
                stream.bound_engines.clear()
        self.pool.close()
        with self.loading:
            self.engines.clear()
        return True

    def _stream(self, name: str, graphs: Sequence[str]) -> EngineStream:
        memory = self.bundle.manifest.memory
        return EngineStream(
            name, self.device, self.scheduler, self.pool, contract.shared_activations(memory, graphs)
        )
