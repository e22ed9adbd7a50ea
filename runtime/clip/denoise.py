"""Denoising: takes a clip's windows through the steps.

Each segment of frames has its own buffers on the device: latents, pose features and, where several windows
cover it, the sum of their predictions. They are leased when its first window begins and given back after its
last step, the latents after decoding. A multistep solver's estimates are leased when it makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, cycle

from ...engines import contract
from ...engines.contract import Contract, DType, TensorSpec
from ...engines.device import Buffer, Estimate, Event, Term, Update
from ..streams.engine_stream import BoundEngine
from ..streams.pool import Lease
from ..streams.session import Session
from .caching import NUM_KEPT
from .clip import Clip
from .conditions import prepare_conditions
from .layout import Layout, Place, Segment
from .lookahead import Lookahead
from .noise import Noise
from .order import Task
from .reference import Reference
from .sampler import Step
from .snapshot import Snapshot
from .solvers import num_estimates

DTYPES: dict[str, DType] = {"float32": "float32", "float16": "float16"}  # of features


@dataclass(frozen=True, slots=True)
class SegmentBuffers:
    """The device buffers of a segment."""

    latents: Buffer  # float32 (frames, 4, h, w)
    pose_features: Buffer  # (frames, C0, h, w)
    total: Buffer | None = None  # sum of predictions in this step, if several windows cover the frames
    # Clean latents that a multistep solver has estimated, as `latents`; the last first.
    estimates: list[Buffer] = field(default_factory=list, init=False)

    @property
    def sampled(self) -> list[Buffer]:
        """The buffers that a step changes."""
        return [self.latents, *([self.total] if self.total else []), *self.estimates]


class Denoiser:
    """Takes one clip's segments through all steps."""

    def __init__(self, session: Session, clip: Clip, layout: Layout, reference: Reference, lease: Lease):
        graphs = clip.settings.unet_graphs
        for graph in set(graphs):
            clip.check_cancelled()
            session.engine(graph, clip.check_cancelled)  # takes long, so the scheduler is not held
        with session.scheduler:
            unets = {graph: [session.bound(stream, graph) for stream in session.denoise] for graph in graphs}
            self.pose_guider = session.bound(session.prepare, contract.POSE_GUIDER)
        self.unets = [unets[graph] for graph in graphs]  # for each step, one per denoising stream
        self.conditions = prepare_conditions(session, clip.settings, layout, reference, lease)
        self.layout, self.steps, self.prepare = layout, clip.settings.steps, session.prepare
        self.num_estimates = num_estimates(self.steps, len(self.steps))  # of each segment
        self.scheduler, self.lease = session.scheduler, lease
        self.check_cancelled = clip.check_cancelled
        self.resumed = dict(clip.snapshots.start.segments)  # saved segments, until they are on the device
        self.places: dict[int, list[Place]] = {}  # by window, for windows in progress
        self.buffers: dict[Segment, SegmentBuffers] = {}  # of segments in progress
        self.cached = clip.settings.cached
        self.resumed_features = dict(clip.snapshots.start.features)
        self.features: dict[int, list[Buffer]] = {}  # deep features by window, of its last whole runs

    def begin(self, window: int, poses: Lookahead, noise: Noise) -> None:
        """Initialize the segments of a window that are not on the device yet."""
        self.scheduler.check_open()
        if window not in self.places:
            self.places[window] = self.layout.places(window)
            for segment, _ in self.places[window]:
                if segment not in self.buffers:
                    self._begin(segment, poses, noise)
            for content in self.resumed_features.pop(window, []):
                buffer = self.lease.take(DTYPES[content.dtype.name], content.shape)
                self.prepare.copy_in(buffer, content)
                self.features.setdefault(window, []).append(buffer)

    def issue(self, task: Task) -> Event:
        """Issue one task: gather inputs, run the UNet, update latents. Returns the event of its end."""
        with self.scheduler:
            unets = self.unets[task.step]
            unet = unets[task.window % len(unets)]
            self._gather(unet, task)
            inputs, outputs = self._features(unet, task) if self.cached else ({}, {})
            unet.run(inputs, outputs, self.conditions.reference, self.check_cancelled)
            return self._update(unet, task)

    def take_finished(self, task: Task) -> list[tuple[Segment, SegmentBuffers]]:
        """Remove and return the segments that this task finishes; their latents are final."""
        if task.step < len(self.steps) - 1:
            return []
        segments = [place.segment for place in self.places.pop(task.window)]
        self.layout.forget(task.window)
        done = [(s, self.buffers.pop(s)) for s in segments if s.windows[-1] == task.window]
        for _, buffers in done:
            _latents, *others = buffers.sampled
            self.lease.give(buffers.pose_features, *others)
            buffers.estimates.clear()
        self.lease.give(*self.features.pop(task.window, []))
        return done

    def snapshot(self, num_tasks: int, first_frame: int) -> Snapshot:
        """Return a snapshot after the tasks issued so far; waits for them."""
        begun = {
            segment.frames.start: [self.prepare.copy_out(buffer) for buffer in buffers.sampled]
            for segment, buffers in self.buffers.items()
        }
        features = {
            window: [self.prepare.copy_out(buffer) for buffer in buffers]
            for window, buffers in self.features.items()
        }
        return Snapshot(num_tasks, first_frame, self.resumed | begun, self.resumed_features | features)

    def _begin(self, segment: Segment, poses: Lookahead, noise: Noise) -> None:
        specs = segment_specs(segment, self.unets[0][0].contract)
        buffers = self.buffers[segment] = SegmentBuffers(*self.lease.take_all(specs))
        begin = self.resumed.pop(segment.frames.start, None) or [noise(segment.frames)]
        num_estimates = max(0, len(begin) - len(buffers.sampled))
        buffers.estimates.extend(self.lease.take_all([specs[0]] * num_estimates))
        # Noise comes without a sum: the first window of a step starts one.
        for buffer, content in zip(buffers.sampled, begin, strict=False):
            self.prepare.copy_in(buffer, content)
        for row, frame in enumerate(segment.frames):
            features = buffers.pose_features.rows(row, row + 1)
            with self.prepare.staged("uint8", poses.take(frame)) as picture, self.scheduler:
                self.pose_guider.run({"frame": picture}, {"pose_features": features})

    def _gather(self, unet: BoundEngine, task: Task) -> None:
        """Copy a window's frames and the step's conditions into the UNet's inputs.

        A window shorter than the engine's is padded with its own frames. Padding does not affect the real
        frames unless it holds NaN or infinity, as old content of the buffers might.
        """
        conditions, places = self.conditions.of_step(task.step), self.places[task.window]
        pairs = [(unet[name], buffer) for name, buffer in conditions.items() if name in unet.specs]
        size, row = unet.specs["latents"].shape[0], 0
        for segment, _ in cycle(places):
            buffers, count = self.buffers[segment], min(len(segment.frames), size - row)
            for name, source in (("latents", buffers.latents), ("pose_features", buffers.pose_features)):
                pairs.append((unet[name].rows(row, row + count), source.rows(0, count)))
            row += count
            if row == size:
                break
        sources = [source for _, source in pairs]
        targets = {target.owner for target, _ in pairs}  # whole buffers, as every row is overwritten
        self.scheduler.issue(
            "gather", unet.stream, lambda: unet.stream.copy(*pairs), reads=sources, writes=targets
        )

    def _features(self, unet: BoundEngine, task: Task) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
        """Return the cached features that a task reads, and where it leaves others, by tensor of the UNet."""
        kept, features = self.cached[task.step].kept, self.features.setdefault(task.window, [])
        if kept is not None:
            if len(features) == NUM_KEPT:
                self.lease.give(features.pop())
            features.insert(0, self.lease.take(kept.dtype, kept.shape))
            return {}, {kept.name: features[0]}
        if self.cached[task.step].extrapolation is None:
            return {}, {}
        # Without extrapolation the ones before have no effect, but they must be finite.
        last, before = features[0], features[-1] if self.cached[task.step].extrapolation else features[0]
        count = unet.specs["deep_features"].shape[0]  # the conditional half comes last
        read = {"deep_features": last, "deep_features_before": before}
        return {name: each.rows(each.shape[0] - count, each.shape[0]) for name, each in read.items()}, {}

    def _update(self, unet: BoundEngine, task: Task) -> Event:
        step, prediction = self.steps[task.step], unet["prediction"]
        updates: list[Update] = []
        for segment, rows in self.places[task.window]:
            buffers, windows = self.buffers[segment], segment.windows
            first, last = task.window == windows[0], task.window == windows[-1]
            part = prediction.rows(rows.start, rows.stop)
            a, b = step.latents, step.prediction / len(windows)
            update = Update(buffers.latents, buffers.total, part, first=first, last=last, a=a, b=b)
            # The other windows still gather these latents: only the last window's task writes them.
            updates.append(self._multistep(update, buffers, step, len(windows)) if last else update)
        return self.scheduler.issue(
            "update",
            unet.stream,
            lambda: unet.stream.update(updates),
            reads=chain.from_iterable(update.reads for update in updates),
            writes=chain.from_iterable(update.writes for update in updates),
        )

    def _multistep(self, update: Update, buffers: SegmentBuffers, step: Step, num_windows: int) -> Update:
        """Add to an update the estimates that it reads, and the one that it makes."""
        estimates = buffers.estimates
        earlier = tuple(map(Term, estimates, step.earlier))
        if step.clean is None:
            return update._replace(earlier=earlier)
        # The oldest estimate makes room, if this update is the last that reads it.
        full = len(estimates) == self.num_estimates
        buffer = estimates.pop() if full else self.lease.take("float32", update.latents.shape)
        estimates.insert(0, buffer)
        estimate = Estimate(buffer, step.clean[0], step.clean[1] / num_windows)
        return update._replace(earlier=earlier, estimate=estimate)


def segment_specs(segment: Segment, unet: Contract) -> list[TensorSpec]:
    """Return the specs of a segment's buffers, in the order of SegmentBuffers' fields, without estimates."""
    rows = {spec.name: spec for spec in unet.inputs}
    latents, pose_features = (
        replace(rows[name], shape=(len(segment.frames), *rows[name].shape[1:]))
        for name in ("latents", "pose_features")
    )
    return [latents, pose_features, *([latents] if len(segment.windows) > 1 else [])]
