"""Videos: opened with named formats only, decoded frame by frame, shown at the times that ffmpeg would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, cast

from ...errors import InputError, InputMissing
from ...text import quoted
from .notices import notice
from .picture import MAX_NAME
from .resampling import in_ticks, resampled
from .video_frame import to_picture

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video import VideoFrame, VideoStream
    from av.video.codeccontext import VideoCodecContext
    from PIL import Image

# A fixed list, as FFmpeg would also render a text file as terminal art, or follow a playlist to other files.
FORMATS = "mov,matroska,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,ivf,mxf,nut"
MAX_PIXELS = 8192 * 4352  # of a frame: the most that the levels of HEVC and AV1 allow

# MPEG program streams lack some timestamps, and others are off by a frame: their frames are taken to be one
# tick apart. AVI stores times in decoding order, so frames have those at which they leave the decoder.
UNTIMED_FORMATS, DECODING_TIMED_FORMATS = {"mpeg"}, {"avi"}

# Files of these formats may be joined end to end. Timestamps then break at the joint, and the demuxer takes
# packets around it for damaged.
JOINABLE_FORMATS = {"mpegts", "mpeg", "ogg"}

# A longer pause between two frames is a broken timestamp. ffmpeg has 10 s for joinable formats, and 30 hours
# for others, in which it would repeat a frame a million times.
MAX_PAUSE_S, MAX_PAUSE_JOINABLE_S = 60, 10

MAX_TYPICAL_RATE = 210  # as in ffmpeg: frames at a higher rate come in bursts

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave out the alpha


@dataclass(frozen=True, slots=True)
class Video:
    """A video file. `frame_rate` is None if it has none; `num_frames` is an estimate, or None."""

    path: str
    frame_rate: Fraction | None
    num_frames: int | None

    @property
    def name(self) -> str:
        return quoted(self.path, MAX_NAME)

    def pictures(self, step: float) -> Iterator[Image.Image]:
        """Read the frame nearest to every `step` ticks of the frame rate, as an upright RGB picture.

        Without a frame rate, a frame is a tick. A frame that is repeated is the same object. Raises
        InputError for damage.
        """
        with opened(self.path) as (container, stream):
            frames = self._decoded(container, stream)
            if self.frame_rate is not None and container.format.name not in UNTIMED_FORMATS:
                frames = resampled(self._timed(frames, container.format.name), step)
            elif step != 1:
                frames = resampled(in_ticks(frames), step)
            yield from self._converted(frames)

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        import av

        joinable = container.format.name in JOINABLE_FORMATS
        packets = self._joined(container, stream) if joinable else container.demux(stream)
        decoder, count = decoder_of(stream), 0
        try:
            for packet in packets:
                try:
                    frames = decoder.decode(packet)
                except av.InvalidDataError:
                    if not joinable:
                        raise
                    frames, damaged = [], True
                else:
                    damaged = packet.is_corrupt or any(frame.is_corrupt for frame in frames)
                if damaged and not joinable:
                    raise InputError(f"{self.name} is damaged after frame {count}: give an intact file")
                if damaged:
                    notice(f"{self.name} is damaged, as joined and cut recordings are: look at its frames")
                for frame in frames:
                    yield frame
                    count += 1
        except av.FFmpegError as error:
            raise InputError(
                f"{self.name} is damaged after frame {count} ({error.strerror}): give an intact file"
            ) from error

    def _joined(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Yield the packets of a track. Where their times break, later ones are shifted, as in ffmpeg."""
        assert stream.time_base is not None
        longest = longest_pause(container.format.name) / stream.time_base
        tick = round(1 / (stream.time_base * self.frame_rate)) if self.frame_rate else 1
        shift, last, shown = 0, None, 0
        for packet in container.demux(stream):
            if packet.dts is not None:
                pts = packet.dts if packet.pts is None else packet.pts
                dts = min(packet.dts, pts)  # after a break, the demuxer may repeat the last one
                if last is not None and not last <= dts + shift <= last + longest:
                    # A recording begins with a key frame, which is shown after all frames of the one before.
                    shift = shown + tick - pts if packet.is_keyframe else last + tick - dts
                packet.dts = dts + shift
                if packet.pts is not None:
                    packet.pts += shift
                shown = pts + shift if last is None else max(shown, pts + shift)
                last = packet.dts
            yield packet

    def _timed(
        self, frames: Iterator[VideoFrame], container_format: str
    ) -> Iterator[tuple[VideoFrame, float]]:
        """Yield each frame and its time since the first, in ticks of the frame rate.

        A frame with an impossible time follows the one before after one tick. During a pause of more than a
        second, the frame before it is shown to the end.
        """
        assert self.frame_rate is not None
        rate, longest = float(self.frame_rate), longest_pause(container_format)
        # In joined recordings, damage may change the order of frames; steps back are mended before.
        earliest = -1 if container_format in JOINABLE_FORMATS else 0
        previous, time, origin = None, -1.0, None
        for count, frame in enumerate(frames):
            seconds = seconds_of(frame, container_format)
            if seconds is None:  # as of some frames of transport streams
                time += 1
            else:
                stamp = seconds * rate
                pause = 0.0 if origin is None else (stamp - origin - time) / rate
                if origin is None or not earliest <= pause <= longest:
                    origin = stamp - time - 1
                if pause > longest:
                    notice(f"{self.name}: left out a pause of {pause:.0f} s after frame {count}")
                elif pause > max(1, 1 / rate) and previous is not None:
                    yield previous, stamp - origin - 1
                time = max(time, stamp - origin)
            previous = frame
            yield frame, time

    def _converted(self, frames: Iterator[VideoFrame]) -> Iterator[Image.Image]:
        import av
        from av.video.reformatter import VideoReformatter

        previous, reformatter = None, VideoReformatter()
        for frame in frames:
            if frame is not previous:
                try:
                    picture = to_picture(frame, reformatter)
                except (av.FFmpegError, OSError, ValueError) as error:
                    raise InputError(
                        f"cannot convert frames of {self.name} to RGB "
                        f"({getattr(error, 'strerror', None) or error}): convert it to an mp4"
                    ) from error
                previous = frame
            yield picture


def open_video(path: str) -> Video:
    """Open a video. Raises InputMissing or InputError."""
    with opened(path) as (container, stream):
        average, grid, excess = stream.average_rate, stream.base_rate, Fraction(0)
        # The average rate alone is not enough: a missing frame lowers it and a last frame without a duration
        # raises it, and evenly spaced frames would then be dropped or doubled. A pause lowers it even more.
        rate = grid if average and grid and close(average, grid) else None
        if rate is None:
            rate, intervals = average, intervals_of(container, stream)
            if intervals:
                typical = (1 / median_low(intervals)).limit_denominator(1001)
                if typical <= MAX_TYPICAL_RATE and (not average or typical / average >= 3 / 2):
                    rate = grid if grid and close(typical, grid) else typical
            longest = longest_pause(container.format.name)
            excess = sum((each for each in intervals if each > longest), Fraction(0))
        num_frames = stream.frames
        if num_frames and rate and stream.duration and stream.time_base:
            # The stored count includes frames hidden by an edit list, but no repeats for a variable rate.
            num_frames = round((stream.duration * stream.time_base - excess) * rate)
    return Video(path, rate, num_frames or None)


def close(rate: Fraction, grid: Fraction) -> bool:
    return 2 / 3 < grid / rate < 3 / 2


def intervals_of(container: InputContainer, stream: VideoStream) -> list[Fraction]:
    """Return the intervals between frames in seconds. Reads the whole file."""
    import av

    stamps: list[int] = []
    with suppress(av.FFmpegError):  # damage is reported when frames are read
        stamps.extend(packet.dts for packet in container.demux(stream) if packet.dts is not None)
    unit = stream.time_base or Fraction(0)
    return [(after - before) * unit for before, after in pairwise(stamps) if after > before]


@contextmanager
def opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and find its video track: the default one if there are several, else the first."""
    import av
    from av.stream import Disposition

    name = quoted(path, MAX_NAME)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(
            f"expected a video file or a directory of pictures, found {name}, a pipe or device: "
            "save it to a file first"
        )
    try:
        # The path is absolute because FFmpeg could take a name with a colon for a URL. `options` is not used
        # because it applies to streams too, and PyAV before 18 crashes if a stream is found late (flv, mpg).
        container = av.open(
            os.path.abspath(path),
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except FileNotFoundError as error:
        raise InputMissing(f"there is no pose video or directory {name}: check the path") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"cannot read {name} as a video ({getattr(error, 'strerror', None) or error}): "
            "give an mp4, mov, webm, mkv, avi or gif file, or a directory of pictures"
        ) from error
    with container:
        # The cover picture of an audio file is a video stream too.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise InputError(f"{name} has no video stream: give a video or a directory of pictures")
        stream = next((s for s in streams if s.disposition & Disposition.default), streams[0])
        if len(streams) > 1:
            notice(f"{name} has {len(streams)} video tracks: using number {streams.index(stream) + 1}")
        if stream.codec_context is None:
            raise InputError(f"cannot decode the video in {name}: convert it to an mp4 with H.264")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{name}: expected frames of at most {MAX_PIXELS // 10**6} megapixels, "
                f"found {width}x{height}; scale them down"
            )
        yield container, stream


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a track: one that decodes alpha too if there is some."""
    import av

    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ALPHA_DECODERS:
        with suppress(ValueError):  # this FFmpeg is built without it
            decoder = cast("VideoCodecContext", av.CodecContext.create(ALPHA_DECODERS[decoder.name], "r"))
    # The size may change within a video. FFmpeg counts with padding.
    decoder.options = {"max_pixels": str(MAX_PIXELS * 9 // 8)}
    return decoder


def seconds_of(frame: VideoFrame, container_format: str) -> float | None:
    """The time of a frame in its file; None if it has none."""
    if container_format not in DECODING_TIMED_FORMATS:
        return frame.time
    return None if frame.dts is None or frame.time_base is None else float(frame.dts * frame.time_base)


def longest_pause(container_format: str) -> int:
    return MAX_PAUSE_JOINABLE_S if container_format in JOINABLE_FORMATS else MAX_PAUSE_S
