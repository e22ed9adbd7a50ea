"""The animator: a loaded bundle that turns a reference image and pose frames into a clip.

The life of a clip is `Animator._render`, top to bottom: reference -> conditions -> for each task: pose
features, a window, a step -> decode. It starts when the first frame is asked for and ends when its iterator
does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from threading import Lock
from types import TracebackType

import numpy as np

from ..engines import contract
from ..engines.backends import load_engine, open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.contract import PREPARE, UNETS
from ..engines.device import Array, Buffer, Device, Event
from ..engines.engine import Engine
from ..engines.model import Schedule
from ..errors import ConfigError, InputError
from .clip.clip import WHOLE_SCHEDULE, Clip, check_options
from .clip.decode import Decoder
from .clip.denoise import Conditions, Denoiser, Noise
from .clip.layout import Layout
from .clip.lookahead import Lookahead
from .clip.memory_plan import activations
from .clip.noise import read_noise, seeded_noise
from .clip.order import ORDERS
from .clip.progress import ProgressCallback, counter
from .clip.reference import Reference, ReferenceCache, image_key
from .clip.sampler import Step, ddim
from .clip.snapshot import NO_SNAPSHOTS, SnapshotSink
from .clip.windows import POLICIES, Known
from .media.picture import Picture, fit, read_picture, square
from .media.pose_sequence import PoseSource, open_pose
from .streams.engine_stream import BoundEngine, EngineStream
from .streams.operations import Observer, StreamScheduler
from .streams.pool import Lease, Pool

REFERENCE_CACHE_BYTES = 1 << 30
RUN_AHEAD = 3  # tasks on the device before one is waited for: enough to keep it busy, few to abandon

Frames = Generator[Array, None, None]


class Animator:
    """A bundle, loaded. Clips may be made from several threads at once; close it, or use it in a `with`."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        reference_cache_bytes: int = REFERENCE_CACHE_BYTES,
        denoise_streams: int = 1,
        device: Device | None = None,
        load: Callable[[Bundle, str, Device], Engine] = load_engine,
        observe: Observer | None = None,
    ):
        if denoise_streams < 1:
            raise ConfigError(f"denoise_streams: expected at least 1, found {denoise_streams}")
        self.bundle, self.load_graph = bundle, load
        self.model, self.bucket = bundle.manifest.model, bundle.manifest.bucket
        self.device = device or open_device(bundle.manifest.backend, timing=observe is not None)
        self.device.activate()
        self.scheduler, self.pool = StreamScheduler(self.device, observe), Pool(self.device)
        self.references = ReferenceCache(
            reference_cache_bytes, lambda reference: self.pool.give(*reference.values())
        )
        self.engines: dict[str, Engine] = {}
        self.loading = Lock()
        self.prepare = self._engine_stream("prepare", PREPARE)
        self.denoise = [self._engine_stream(f"denoise {i}", UNETS) for i in range(denoise_streams)]
        self.decode = self._engine_stream("decode", (contract.VAE_DECODER,))
        self.copy_out = self.device.stream("copy out")
        for graph in bundle.manifest.graphs:
            if graph not in UNETS:
                self.engines[graph] = load(bundle, graph, self.device)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        *,
        reference_cache_bytes: int = REFERENCE_CACHE_BYTES,
        denoise_streams: int = 1,
        observe: Observer | None = None,
    ) -> Animator:
        """Verify a bundle and make it ready.

        The denoising UNet has two forms, with guidance and without. Each is loaded when a clip first asks for
        it, after the bundle has been verified again.

        `reference_cache_bytes` bounds the references kept between clips. With more than one of
        `denoise_streams` windows are denoised at the same time, each stream with working memory of its own.
        `observe` is told of every operation on the device, from whichever thread issues it, and must not call
        back. Raises InputMissing, BundleCorrupt, BundleMismatch or DeviceError.
        """
        return cls(
            open_bundle(bundle),
            reference_cache_bytes=reference_cache_bytes,
            denoise_streams=denoise_streams,
            observe=observe,
        )

    def animate(
        self,
        reference: Picture,
        pose: PoseSource,
        *,
        steps: Schedule | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = WHOLE_SCHEDULE,
        seed: int = 42,
        windows: str = "uniform",
        overlap: int | None = None,
        order: str | None = None,
        frames: int | None = None,
        initial_noise: str | os.PathLike[str] | None = None,
        progress: ProgressCallback = lambda _progress: None,
        snapshots: SnapshotSink = NO_SNAPSHOTS,
    ) -> Frames:
        """Yield the clip's frames, uint8 (H, W, 3) RGB, one per pose frame, as they are ready.

        reference is a path, a PIL image or a uint8 (H, W, 3) array; pose a path to a video or to a directory
        of images, or an iterable of pictures. Both are resized to the bundle's size as the public pipeline
        does. `frames` takes that many of the pose frames.

        `steps` is a number of them, or their timesteps, as few-step weights want them: (999, 749, 499, 249).
        A guidance_scale of 1 means none. Both default to what the bundle's weights were made for. Steps
        between two shares of the schedule, `guidance_interval`, are guided; all others do without the
        unconditional half, so that they take about half the time.

        `overlap` counts the frames that neighbouring windows share: 4, or less where the window has no room
        for 4.

        `windows` is "uniform", the public scheduler, which wraps around to the first frames, or "open".
        `order` changes when frames leave, not what they are: "step-major" takes the whole clip through each
        step, and "time-skewed", which is for open windows and their default, finishes window after window, so
        that frames leave early and poses may be an iterator without end.
        `initial_noise` is a .npy file (1, 4, frames, h, w) instead of noise from the seed.
        A `keeper` is given snapshots of the clip under way, and one to begin with: then the frames it has are
        not made again, and the first to be yielded is the one after them (runtime/resume.py).

        Options and files are checked here, before the first frame is asked for; raises ConfigError,
        InputError, DeviceError or Rejected. Closing the iterator abandons the clip.
        """
        bucket, sampling = self.bucket, self.model.sampling
        self.scheduler.check_open()
        if guidance_scale is None:
            guidance_scale = sampling.guidance_scale
        overlap, order = check_options(
            bucket,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            windows=windows,
            overlap=overlap,
            order=order,
            seed=seed,
        )
        picture = read_picture(reference)
        clip = Clip(
            image=fit(picture, bucket.width, bucket.height)[None],
            embedded_image=square(picture, self.model.image_encoder.image_size)[None],
            pose=open_pose(pose, frames),
            steps=ddim(self.model.noise, sampling.schedule if steps is None else steps),
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            seed=seed,
            initial_noise=None if initial_noise is None else read_noise(initial_noise, self._latent_shape),
            policy=POLICIES[windows],
            overlap=overlap,
            order=ORDERS[order],
            progress=progress,
            snapshots=snapshots,
        )
        return self._render(clip)

    def close(self) -> None:
        """Let go of engines, references and all memory. What needs them later, a clip that is being made
        included, is Rejected."""
        with self.scheduler.lock:
            if self.scheduler.closed:
                return
            self.scheduler.closed = True
            try:
                self.device.activate()
            finally:
                self.device.close()
            for engine_stream in (self.prepare, self.decode, *self.denoise):
                engine_stream.bound_engines.clear()
        self.references.clear()
        self.pool.close()
        with self.loading:
            self.engines.clear()

    def __enter__(self) -> Animator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _render(self, clip: Clip) -> Frames:
        key, num_steps = image_key(clip.image, clip.embedded_image), len(clip.steps)
        snapshots, start = clip.snapshots, clip.snapshots.start
        with (
            self.references.borrow(key, partial(self._encode_reference, clip)) as reference,
            closing(Lease(self.pool)) as lease,
        ):
            poses = self._poses(clip)
            noise = self._noise(clip, poses)
            layout = Layout(clip.policy(poses, self.bucket.window, clip.overlap))
            denoiser = self._denoiser(clip, layout, reference, lease)
            decoder = self._decoder(clip, poses, lease)
            total = partial(self._num_tasks, clip, poses)
            denoised = counter(clip.progress, "denoise", total, start.num_tasks)
            ahead: deque[Event] = deque()
            tasks = enumerate(clip.order(layout, num_steps), start=1)
            for num_tasks, task in islice(tasks, start.num_tasks, None):
                denoiser.begin(task.window, poses, noise)
                ahead.append(denoiser.issue(task))
                decoder.put(denoiser.finished(task))
                yield from decoder.frames(wait=False)
                # Frames that are finished out of order are in no snapshot: it waits until they are out.
                due = not decoder.finished and snapshots.due()
                catch_up(ahead, 0 if due else RUN_AHEAD, denoised)  # what is issued cannot be taken back
                if due:
                    yield from decoder.frames(wait=True)
                    snapshots.keep(partial(denoiser.snapshot, num_tasks, decoder.next_frame))
            catch_up(ahead, 0, denoised)  # for the progress alone
            yield from decoder.frames(wait=True)

    def _encode_reference(self, clip: Clip) -> Reference:
        prepare, lease = self.prepare, Lease(self.pool)
        specs = self.bundle.manifest.graphs[contract.REFERENCE_NET].outputs
        try:
            reference = dict(zip((spec.name for spec in specs), lease.take_all(specs), strict=True))
            with (
                prepare.staged("uint8", clip.embedded_image) as embedded,
                prepare.staged("uint8", clip.image) as image,
                self.scheduler,
            ):
                encoder, vae, net = (
                    self._bound_engine(prepare, graph)
                    for graph in (contract.IMAGE_ENCODER, contract.VAE_ENCODER, contract.REFERENCE_NET)
                )
                encoder.run({"image": embedded})
                vae.run({"image": image})
                found = {"latents": vae["latents"], "image_embeds": encoder["image_embeds"]}
                done = net.run(found, bound=reference)
            done.synchronize()  # a reference that failed must not be kept
        except BaseException:
            lease.close()
            raise
        return reference

    def _poses(self, clip: Clip) -> Lookahead:
        progress = counter(clip.progress, "pose", lambda: clip.pose.num_frames)
        first_frame = clip.snapshots.start.first_frame
        return Lookahead(clip.pose, self.bucket.width, self.bucket.height, progress, first_frame)

    def _noise(self, clip: Clip, poses: Lookahead) -> Noise:
        given = clip.initial_noise
        if given is None:
            return lambda frames: seeded_noise(clip.seed, frames, self._latent_shape)
        if poses.at_least(len(given) + 1) or not poses.at_least(len(given)):
            raise InputError(
                f"initial noise: expected as many frames as poses, found {len(given)} for "
                f"{poses.num_read}{'' if poses.ended else ' or more'}"
            )
        return lambda frames: given[frames.start : frames.stop]

    @property
    def _latent_shape(self) -> tuple[int, ...]:
        """(4, h, w)"""
        return self.bundle.manifest.graphs[contract.VAE_DECODER].inputs[0].shape[1:]

    def _denoiser(self, clip: Clip, layout: Layout, reference: Reference, lease: Lease) -> Denoiser:
        graphs = clip.unet_graphs()
        for graph in set(graphs):
            self.engine(graph)  # may take long to load, so not with the issuer held
        with self.scheduler:
            bound_engines = {
                graph: [self._bound_engine(engine_stream, graph) for engine_stream in self.denoise]
                for graph in graphs
            }
            pose_guider = self._bound_engine(self.prepare, contract.POSE_GUIDER)
        scalars: dict[str, Array] = {
            "num_frames": np.array([len(layout.windows[next(iter(layout))])], np.int32),
            "guidance_scale": np.array([clip.guidance_scale], np.float32),
        }
        conditions = Conditions(reference, self._time_rows(clip.steps, lease), {})
        for name, scalar in scalars.items():
            conditions.scalars[name] = lease.take("int32" if scalar.dtype == np.int32 else "float32", (1,))
            self.prepare.copy_in(conditions.scalars[name], scalar)
        unets, start = [bound_engines[graph] for graph in graphs], clip.snapshots.start
        return Denoiser(layout, clip.steps, conditions, unets, self.prepare, pose_guider, lease, start)

    def _time_rows(self, steps: list[Step], lease: Lease) -> Buffer:
        timesteps = np.array([step.timestep for step in steps], np.float32)
        with self.prepare.staged("float32", timesteps) as staged, self.scheduler:
            embedding = self._bound_engine(self.prepare, contract.TIME_EMBEDDING)
            (row,) = embedding.contract.outputs
            rows = lease.take(row.dtype, (len(steps), *row.shape[1:]))
            for i in range(len(steps)):
                embedding.run({"timestep": staged.rows(i, i + 1)}, {"time_row": rows.rows(i, i + 1)})
        return rows

    def _decoder(self, clip: Clip, poses: Lookahead, lease: Lease) -> Decoder:
        with self.scheduler:
            vae_decoder = self._bound_engine(self.decode, contract.VAE_DECODER)
        snapshots = clip.snapshots
        progress = counter(clip.progress, "decode", lambda: poses.length, snapshots.num_frames)
        return Decoder(
            vae_decoder,
            self.copy_out,
            lease,
            max_in_flight=self.bucket.window,
            progress=progress,
            next_frame=snapshots.start.first_frame,
            num_kept=snapshots.num_frames,
        )

    def _num_tasks(self, clip: Clip, poses: Lookahead) -> int | None:
        """As far as the clip's length is known."""
        if poses.length is None:
            return None
        windows = clip.policy(Known(poses.length), self.bucket.window, clip.overlap)
        return sum(1 for _ in windows) * len(clip.steps)

    def _engine_stream(self, name: str, graphs: Sequence[str]) -> EngineStream:
        max_in_flight = activations(self.bundle.manifest.memory, graphs)
        return EngineStream(name, self.device, self.scheduler, self.pool, max_in_flight)

    def _bound_engine(self, engine_stream: EngineStream, graph: str) -> BoundEngine:
        """With the issuer held, and the graph's engine loaded."""
        return engine_stream.bound_engine(graph, self.engines[graph])

    def engine(self, graph: str) -> Engine:
        """The loaded engine of a graph, for the contract's name of it."""
        if graph not in self.engines:
            with self.loading:
                self.scheduler.check_open()
                if graph not in self.engines:
                    self.bundle.verify()
                    self.device.activate()  # any thread's clip may be the first to need it
                    self.engines[graph] = self.load_graph(self.bundle, graph, self.device)
        return self.engines[graph]


def catch_up(ahead: deque[Event], num_ahead: int, done: Callable[[], None]) -> None:
    """Wait until no more than that many events are still to come."""
    while len(ahead) > num_ahead:
        ahead.popleft().synchronize()
        done()
