"""A session: a bundle loaded on a device, its engines and the streams they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock

from ...engines import contract
from ...engines.bundle import Bundle
from ...engines.device import Device
from ...engines.engine import Engine
from ...engines.library_calls import library_call
from ...engines.manifest import Manifest
from .engine_stream import BoundEngine, EngineStream
from .operations import Observer, StreamScheduler
from .pool import Pool

LoadEngine = Callable[[Bundle, str, Device], Engine]

WAIT_S = 0.1  # between looks at whether a clip that waits for another thread has been cancelled
KEPT_BYTES = 1 << 29  # on a CPU, of engines that run once for each reference; more are unloaded again


def keeps_encoders(manifest: Manifest) -> bool:
    """Whether the engines that run once for each reference stay loaded."""
    weights = sum(manifest.memory[graph].weights for graph in contract.REFERENCE if manifest.memory)
    return manifest.backend != "openvino" or weights <= KEPT_BYTES


class Session:
    """A bundle on a device with the streams `prepare`, `denoise` (one or more), `decode` and `copy_out`.

    Creating a session loads all engines except the denoising UNet's variants, each of which is loaded when a
    clip first needs it. On a CPU the engines that run once for each reference are loaded so too; those of a
    large model are unloaded again afterwards. Safe to use from several threads.
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
        self.loading, self.freeing = Lock(), Lock()  # `freeing` is of the engines that encode references
        self.num_encoding = 0  # threads that use the engines of references
        self.prepare = self._stream("prepare", contract.PREPARE)
        self.denoise = [self._stream(f"denoise {i}", contract.UNETS) for i in range(denoise_streams)]
        self.decode = self._stream("decode", (contract.VAE_DECODER,))
        self.copy_out = device.stream("copy out")
        self.keeps_encoders = keeps_encoders(bundle.manifest)
        on_cpu = bundle.manifest.backend == "openvino"
        late = {*contract.UNETS, *(contract.REFERENCE if on_cpu else ())}
        with self.loading:
            self._load(graph for graph in bundle.manifest.graphs if graph not in late)

    def engine(self, graph: str, waiting: Callable[[], None] = lambda: None) -> Engine:
        """Return the engine of a graph.

        One that is not loaded yet is loaded. `waiting` is called again and again while another thread loads,
        and may raise to give up. Raises BundleCorrupt if the bundle has changed since it was opened.
        """
        engine = self.engines.get(graph)
        if engine is None:
            while not self.loading.acquire(timeout=WAIT_S):
                waiting()
            try:
                self.scheduler.check_open()
                if graph not in self.engines:
                    self.bundle.verify()
                    self._load([graph])
                engine = self.engines[graph]
            finally:
                self.loading.release()
        return engine

    @contextmanager
    def encoders(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keep the engines that run once for each reference loaded in a `with` block. Raises as `engine`."""
        with self.freeing, self.scheduler:  # not before those of the last reference are freed
            self.num_encoding += 1
        try:
            for graph in contract.REFERENCE:
                self.engine(graph, waiting)
            yield
        finally:
            with self.scheduler.lock:
                self.num_encoding -= 1
            if not self.keeps_encoders:
                with self.freeing:
                    unloaded = self._take_encoders()
                    unloaded.clear()  # frees them, which takes long, without the scheduler's lock
                self.device.trim()

    def bound(self, stream: EngineStream, graph: str) -> BoundEngine:
        """Return a loaded engine bound to a stream. Called with the scheduler held."""
        return stream.bound_engine(graph, self.engines[graph])

    def close(self) -> bool:
        """Release the engines and all memory; later work raises Rejected. Returns False if already closed."""
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

    def _load(self, graphs: Iterable[str]) -> None:
        """Load engines, of exactly the files that were verified when the bundle was opened."""
        self.device.activate()  # this thread may not have activated it yet
        loaded: dict[str, Engine] = {}
        try:
            for graph in graphs:
                with library_call():
                    loaded[graph] = self.pool.with_room(partial(self.load, self.bundle, graph, self.device))
            self.bundle.verify()  # the files could have been replaced meanwhile
        except BaseException:
            loaded.clear()  # the traceback would keep them
            raise
        self.engines |= loaded

    def _take_encoders(self) -> list[object]:
        """The engines that run once for each reference, which the session forgets if nobody uses them.

        What was issued to them still runs.
        """
        found: list[object] = []
        with self.scheduler.lock:
            if not (self.num_encoding or self.scheduler.closed):
                for graph in contract.REFERENCE:
                    found.append(self.engines.pop(graph, None))
                    if bound := self.prepare.bound_engines.pop(graph, None):
                        self.pool.give(*bound.io_buffers.values())
                        found.append(bound)
        return found

    def _stream(self, name: str, graphs: Sequence[str]) -> EngineStream:
        memory = self.bundle.manifest.memory
        return EngineStream(
            name, self.device, self.scheduler, self.pool, contract.shared_activations(memory, graphs)
        )
