"""The animator: a loaded bundle that turns a reference image and pose frames into a clip.

`Animator._render` makes a clip. It computes the reference and the conditions. Then, for each task (one window
at one step), it computes the pose features of new frames, runs the denoising step and decodes the frames that
are finished. It starts when the first frame is requested and ends when the iterator is exhausted or closed.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from fractions import Fraction
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Unpack

from ..engines.backends import load_engine, open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.device import Array, Device, Event
from ..errors import ConfigError
from ..text import message_of, one_line, quoted
from .clip.clip import Clip
from .clip.decode import Decoder
from .clip.denoise import Denoiser
from .clip.frames import Frames
from .clip.layout import Layout
from .clip.lookahead import Lookahead
from .clip.memory_plan import check_room
from .clip.noise import noise_of
from .clip.options import ClipOptions, OptionKeywords, options_with, whole_number
from .clip.progress import ProgressCallback, counter
from .clip.reference import ReferenceCache, encode_reference, image_key
from .clip.snapshot import NO_SNAPSHOTS, SnapshotSink
from .media.picture import Picture
from .media.pose_sequence import PoseSource
from .streams.operations import Observer
from .streams.pool import Lease
from .streams.session import LoadEngine, Session

LOG = logging.getLogger("animate_rt")
REFERENCE_CACHE_BYTES = 1 << 30
# Tasks issued beyond the one waited for: enough to keep the device busy, few to wait for when a clip closes.
RUN_AHEAD = 3


class Animator:
    """A loaded bundle. Several threads may make clips at once. Call `close` or use a `with` block."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        reference_cache_bytes: int = REFERENCE_CACHE_BYTES,
        denoise_streams: int = 1,
        device: Device | None = None,
        load: LoadEngine = load_engine,
        observe: Observer | None = None,
    ):
        denoise_streams = whole_number("denoise_streams", denoise_streams, least=1)
        reference_cache_bytes = whole_number("reference_cache_bytes", reference_cache_bytes)
        if observe is not None and not callable(observe):
            raise ConfigError(
                f"observe: expected a function that takes an Operation, found {quoted(observe)}"
            )
        self.bundle = bundle
        device = device or open_device(bundle.manifest.backend, timing=observe is not None)
        try:
            self.session = Session(bundle, device, load, denoise_streams, observe)
        except BaseException:  # the error's traceback keeps the device
            with logged("the device could not be closed"):
                device.close()
            raise
        pool = self.session.pool
        self.references = ReferenceCache(
            reference_cache_bytes, lambda reference: pool.give(*reference.values())
        )
        pool.drop_caches = self.references.drop_unused

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        *,
        reference_cache_bytes: int = REFERENCE_CACHE_BYTES,
        denoise_streams: int = 1,
        observe: Observer | None = None,
    ) -> Animator:
        """Verify a bundle and load it.

        The denoising UNet has two variants, with and without guidance. Each is loaded when a clip first needs
        it, after the bundle has been verified again; so are, on a CPU, the engines that encode references.

        `reference_cache_bytes` limits the memory of the references kept between clips. With more than one of
        `denoise_streams`, several windows are denoised at the same time; each stream has its own workspace.
        `observe` is called with every Operation on the device, from the thread that issues it, and must not
        call the animator. Raises ConfigError, InputMissing, BundleCorrupt, BundleMismatch or DeviceError;
        OutOfMemory at once if the bundle is for a CPU and has no room in its memory.
        """
        opened = open_bundle(bundle)
        check_room(opened)
        return cls(
            opened,
            reference_cache_bytes=reference_cache_bytes,
            denoise_streams=denoise_streams,
            observe=observe,
        )

    def animate(
        self,
        reference: Picture,
        pose: PoseSource | Mapping[str, PoseSource],
        options: ClipOptions | None = None,
        *,
        frames: int | None = None,
        pose_fps: Fraction | float | None = None,
        initial_noise: str | os.PathLike[str] | None = None,
        progress: ProgressCallback = lambda _progress: None,
        snapshots: SnapshotSink = NO_SNAPSHOTS,
        **keywords: Unpack[OptionKeywords],
    ) -> Frames:
        """Return an iterator over the clip's frames, uint8 (H, W, 3) RGB, one per pose frame. They have the
        bundle's size or, if `bundle.manifest.model.reference_size`, that of the reference.

        `reference` is a path, a PIL image or a uint8 (H, W, 3) array. `pose` is the path of a video or of a
        directory of images, or an iterable of pictures, which may be endless with open windows in
        time-skewed order. If the model is driven by several tracks, as Champ is, `pose` is a mapping from
        their names to such sources (runtime/clip/tracks.py). All pictures are resized to the bundle's size
        as the public pipeline does. With `pose_fps`, in frames per second, poses are first resampled in time
        to that rate; a directory or an iterable is taken to have 24. `frames` limits the number of pose
        frames used.

        Options are passed as a ClipOptions, as keywords (`steps=20, seed=7`), or as both; keywords take
        precedence.

        `initial_noise` is a .npy file of shape (1, 4, frames, h, w) that replaces the noise from the seed.
        `progress` is called with a Progress. `snapshots` saves snapshots of the clip and provides the one to
        resume from (runtime/shots/resume.py). A resumed clip yields only the frames that are missing.

        This call checks options and inputs and raises ConfigError, InputError or Rejected. The iterator
        raises InputError for an input that turns out to be damaged, DeviceError, BundleCorrupt, Rejected or
        Cancelled. To abandon the clip, close the iterator, or call its `cancel()` from any thread.
        """
        self.session.scheduler.check_open()
        clip = Clip.open(
            self.bundle.manifest,
            reference,
            pose,
            options_with(options, keywords),
            frames=frames,
            pose_fps=pose_fps,
            initial_noise=initial_noise,
            progress=progress,
            snapshots=snapshots,
        )
        session = self.session
        return Frames(self._render(clip), clip.cancelled, session.scheduler.check_process, session.pool.trim)

    def close(self) -> None:
        """Release the engines, the references and all memory. Clips in progress raise Rejected.

        Raises Rejected in a fork of the process that loaded the bundle: nothing of it can be used there.
        """
        self.session.scheduler.check_process()
        if self.session.close():
            self.references.clear()

    def __enter__(self) -> Animator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with logged("the animator could not be closed"):  # the caller's error matters more
                self.close()

    def _render(self, clip: Clip) -> Generator[Array, None, None]:
        session, settings, snapshots = self.session, clip.settings, clip.snapshots
        start, key = snapshots.start, image_key(clip.image, clip.embedded_image)
        with (
            self.references.borrow(
                key, partial(encode_reference, session, clip), clip.check_cancelled
            ) as reference,
            closing(Lease(session.pool)) as lease,
        ):
            poses = Lookahead(clip)
            noise = noise_of(clip.initial_noise, settings.seed, clip.latent_shape, poses)
            layout = Layout(settings.windows(poses))
            denoiser = Denoiser(session, clip, layout, reference, lease)
            decoder = Decoder(session, clip, poses, lease)
            denoised = counter(
                clip.progress, "denoise", lambda: clip.num_tasks(poses.length), start.num_tasks
            )
            issued: deque[Event] = deque()
            tasks = enumerate(settings.order(layout, len(settings.steps)), start=1)
            for num_tasks, task in islice(tasks, start.num_tasks, None):
                clip.check_cancelled()
                denoiser.begin(task.window, poses, noise)
                issued.append(denoiser.issue(task))
                decoder.put(denoiser.take_finished(task))
                yield from decoder.frames(wait=False)
                # A snapshot cannot hold frames finished out of order: postpone it until they are yielded.
                due = not decoder.waiting and snapshots.due()
                # Limit the work that closing the clip would have to wait for.
                catch_up(issued, 0 if due else RUN_AHEAD, denoised)
                if due:
                    yield from decoder.frames(wait=True)
                    snapshots.save(partial(denoiser.snapshot, num_tasks, decoder.next_frame))
            catch_up(issued, 0, denoised)  # reports the last tasks as done
            yield from decoder.frames(wait=True)


@contextmanager
def logged(failure: str) -> Iterator[None]:
    """Log an exception of the block instead of raising it."""
    try:
        yield
    except Exception as error:
        LOG.warning("%s: %s", failure, one_line(message_of(error)))


def catch_up(issued: deque[Event], num_ahead: int, done: Callable[[], None]) -> None:
    """Wait for the oldest events until at most `num_ahead` are left; call `done` after each."""
    while len(issued) > num_ahead:
        issued.popleft().synchronize()
        done()
