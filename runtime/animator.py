"""The animator: a loaded bundle that turns a reference image and pose frames into a clip.

The life of a clip is `Animator._render`, top to bottom: reference -> conditions -> for each task: pose
features, a window, a step -> decode. It starts when the first frame is asked for and ends when its iterator
does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any

from ..engines.backends import load_engine, open_device
from ..engines.bundle import Bundle, open_bundle
from ..engines.device import Array, Device, Event
from ..errors import ConfigError
from .clip.clip import Clip
from .clip.decode import Decoder
from .clip.denoise import Denoiser
from .clip.frames import Frames
from .clip.layout import Layout
from .clip.lookahead import Lookahead
from .clip.noise import noise_of
from .clip.options import ClipOptions
from .clip.progress import ProgressCallback, counter
from .clip.reference import ReferenceCache, encode_reference, image_key
from .clip.snapshot import NO_SNAPSHOTS, SnapshotSink
from .media.picture import Picture
from .media.pose_sequence import PoseSource
from .streams.operations import Observer
from .streams.pool import Lease
from .streams.session import LoadEngine, Session

REFERENCE_CACHE_BYTES = 1 << 30
RUN_AHEAD = 3  # tasks issued beyond the one waited for: keeps the device busy, and little to abandon


class Animator:
    """A loaded bundle. Clips may be made from several threads at once; close it, or use it in a `with`."""

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
        if denoise_streams < 1:
            raise ConfigError(f"denoise_streams: expected at least 1, found {denoise_streams}")
        self.bundle = bundle
        device = device or open_device(bundle.manifest.backend, timing=observe is not None)
        self.session = Session(bundle, device, load, denoise_streams, observe)
        self.references = ReferenceCache(
            reference_cache_bytes, lambda reference: self.session.pool.give(*reference.values())
        )

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

        The denoising UNet has two variants, with guidance and without. Each is loaded when a clip first needs
        it, after the bundle has been verified again.

        `reference_cache_bytes` bounds the references kept between clips. With more than one of
        `denoise_streams`, windows are denoised at the same time; each stream has working memory of its own.
        `observe` is called with every operation on the device, from the thread that issues it, and must not
        call back. Raises InputMissing, BundleCorrupt, BundleMismatch or DeviceError.
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
        options: ClipOptions | None = None,
        *,
        frames: int | None = None,
        initial_noise: str | os.PathLike[str] | None = None,
        progress: ProgressCallback = lambda _progress: None,
        snapshots: SnapshotSink = NO_SNAPSHOTS,
        **keywords: Any,
    ) -> Frames:
        """Yield the clip's frames, uint8 (H, W, 3) RGB, one per pose frame, as they are ready.

        reference is a path, a PIL image or a uint8 (H, W, 3) array. pose is a path to a video or to a
        directory of images, or an iterable of pictures, which may be endless with open windows. Both are
        resized to the bundle's size as the public pipeline does. `frames` limits how many pose frames are
        used.

        Options are those of ClipOptions: given as one, as keywords (`steps=20, seed=7`), or as both, where
        keywords win.

        `initial_noise` is a .npy file (1, 4, frames, h, w), used instead of noise from the seed.
        `progress` is called with a Progress. `snapshots` receives snapshots of the clip, and holds the one to
        resume from: frames it has are not made again, and the first frame yielded is the one after them
        (runtime/shots/resume.py).

        Options and files are checked here, before the first frame is asked for; raises ConfigError,
        InputError, DeviceError or Rejected. Closing the iterator abandons the clip; `cancel()` does so from
        another thread.
        """
        self.session.scheduler.check_open()
        clip = Clip.open(
            self.bundle.manifest,
            reference,
            pose,
            replace(options or ClipOptions(), **keywords),
            frames=frames,
            initial_noise=initial_noise,
            progress=progress,
            snapshots=snapshots,
        )
        return Frames(self._render(clip), clip.cancelled)

    def close(self) -> None:
        """Release engines, references and all memory. A clip that is being made is Rejected."""
        if self.session.close():
            self.references.clear()

    def __enter__(self) -> Animator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _render(self, clip: Clip) -> Generator[Array, None, None]:
        session, settings, snapshots = self.session, clip.settings, clip.snapshots
        start, key = snapshots.start, image_key(clip.image, clip.embedded_image)
        with (
            self.references.borrow(key, partial(encode_reference, session, clip)) as reference,
            closing(Lease(session.pool)) as lease,
        ):
            poses = Lookahead(clip)
            noise = noise_of(clip.initial_noise, settings.seed, clip.latent_shape, poses)
            layout = Layout(settings.policy(poses, settings.window, settings.overlap))
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
                # A snapshot cannot hold frames finished out of order: it waits until they have been yielded.
                due = not decoder.waiting and snapshots.due()
                # Bound the work that closing the clip would have to wait for.
                catch_up(issued, 0 if due else RUN_AHEAD, denoised)
                if due:
                    yield from decoder.frames(wait=True)
                    snapshots.save(partial(denoiser.snapshot, num_tasks, decoder.next_frame))
            catch_up(issued, 0, denoised)  # only to complete the progress
            yield from decoder.frames(wait=True)


def catch_up(issued: deque[Event], num_ahead: int, done: Callable[[], None]) -> None:
    """Wait until at most `num_ahead` of the issued events are still to come; call `done` for each other."""
    while len(issued) > num_ahead:
        issued.popleft().synchronize()
        done()
