"""Sound: the audio track of a video, carried into the mp4 of the clip that the video drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ...text import message_of, quoted
from .notices import notice
from .picture import MAX_NAME
from .video import longest_pause, opened

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

    AudioPacket: TypeAlias = "Packet[AudioStream]"
    Part = TypeVar("Part", AudioPacket, AudioFrame)

# Packets are copied from formats whose timestamps are exact, if every player of mp4 files knows the codec. At
# lower rates a packet is longer than a frame of a video.
COPIED_FORMATS = ("mov", "matroska")
COPIED_CODECS = ("aac", "mp3")
COPIED_RATE = 32_000  # the least, in samples per second
BIT_RATE = 192_000  # of what is encoded again, in bits per second
SAMPLE_RATES = (44_100, 48_000)  # that are kept; others become the last one
MAX_OVERLAP_S = 1  # a longer step back in time is a broken timestamp; shorter ones are left to the resampler


@dataclass(frozen=True, slots=True)
class Sound:
    """The audio of a video file, from `start` seconds after its first frame."""

    path: str
    start: Fraction = Fraction(0)

    def exists(self) -> bool:
        """Whether the file has an audio track. Raises InputMissing or InputError as `open_video`."""
        with opened(self.path) as (container, _):
            return track_of(container) is not None

    @contextmanager
    def added_to(self, output: OutputContainer) -> Iterator[Callable[[Fraction], None]]:
        """Add an audio track to a new mp4, before its first packet.

        Gives a function that writes the audio up to a time in seconds; calling it with the end of every video
        frame interleaves both. The last call ends the audio: less than one packet is missing or too much.
        Damaged audio ends with a notice, because the frames of a clip matter more.
        """
        with opened(self.path) as (source, video):
            track = track_of(source)
            if track is None:
                yield no_sound
                return
            first = Fraction((video.start_time or 0) * (video.time_base or 0))
            origin, longest = first + self.start, longest_pause(source.format.name)
            if is_copied(source, track):
                parts = (packet for packet in source.demux(track) if packet.size)
                packets = copied(continuous(parts, first, longest), track, output, origin)
            else:
                packets = encoded(continuous(source.decode(track), first, longest), track, output, origin)
            packets = self.until_damage(packets)
            waiting = next(packets, None)

            def write(end: Fraction) -> None:
                nonlocal waiting
                while waiting is not None and middle_of(waiting) < end:
                    output.mux(waiting)
                    waiting = next(packets, None)

            yield write

    def until_damage(self, packets: Iterator[AudioPacket]) -> Iterator[AudioPacket]:
        import av

        try:
            yield from packets
        except (av.FFmpegError, ValueError) as error:
            notice(
                f"the sound of {quoted(self.path, MAX_NAME)} is damaged ({message_of(error)}): "
                "the video is silent from there on"
            )


def no_sound(_end: Fraction) -> None:
    """Write nothing."""


def track_of(container: InputContainer) -> AudioStream | None:
    """The audio track that players choose, or None."""
    best = container.streams.best("audio")
    return next((track for track in container.streams.audio if best and track.index == best.index), None)


def is_copied(source: InputContainer, track: AudioStream) -> bool:
    names = source.format.name.split(",")
    return (
        track.codec_context.codec.canonical_name in COPIED_CODECS
        and any(name in names for name in COPIED_FORMATS)
        and track.rate >= COPIED_RATE
    )


def continuous(parts: Iterable[Part], first: Fraction, longest: int) -> Iterator[Part]:
    """Yield the packets or frames of a track. One whose time is missing or impossible follows the one before.

    The video's frames are mended in the same way. first: the time of the first of them, before which the
    audio may begin. longest: the longest pause. Both in seconds.
    """
    shift, end, duration, earliest = Fraction(0), first, 0, None
    for part in parts:
        assert part.time_base is not None
        time = end if part.pts is None else part.pts * part.time_base + shift
        if time - end > longest or (earliest is not None and time - end < earliest):
            shift, time = shift + end - time, end
        part.pts = round(time / part.time_base)
        if (part.duration or 0) * part.time_base > longest:
            part.duration = duration  # mp4 files give the part before a pause its length
        duration = part.duration or 0
        end, earliest = time + duration * part.time_base, -MAX_OVERLAP_S
        yield part


def copied(
    parts: Iterator[AudioPacket], track: AudioStream, output: OutputContainer, origin: Fraction
) -> Iterator[AudioPacket]:
    """Add a track of the same codec; return the packets from `origin` on, with the times of the new file.

    The packet before comes along, because decoders need it. The muxer hides what has a negative time.
    """
    stream = output.add_stream_from_template(track)

    def packets() -> Iterator[AudioPacket]:
        for packet in parts:
            assert packet.pts is not None
            assert packet.time_base is not None
            time, duration = packet.pts * packet.time_base - origin, packet.duration or 0
            if time < -2 * duration * packet.time_base:
                continue
            packet.pts = packet.dts = round(time / packet.time_base)
            packet.stream = stream
            yield packet

    return packets()


def encoded(
    parts: Iterator[AudioFrame], track: AudioStream, output: OutputContainer, origin: Fraction
) -> Iterator[AudioPacket]:
    """Add an AAC track; return the sound from `origin` on, cut to the sample, with pauses as silence."""
    rate = track.rate if track.rate in SAMPLE_RATES else SAMPLE_RATES[-1]
    stream = output.add_stream("aac", rate=rate)
    stream.layout = "mono" if track.channels == 1 else "stereo"
    stream.bit_rate = BIT_RATE

    def packets() -> Iterator[AudioPacket]:
        for frame in resampled(parts, stream, origin):
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


def resampled(frames: Iterator[AudioFrame], stream: AudioStream, origin: Fraction) -> Iterator[AudioFrame]:
    """Convert to the format of `stream`, starting at `origin`."""
    import av
    from av.filter import Graph

    given = next(frames, None)
    if given is None:
        return
    graph = Graph()
    steps = [
        # The format of the first frame may be another than the one that the container tells.
        graph.add_abuffer(
            sample_rate=given.sample_rate,
            format=given.format.name,
            layout=given.layout.name,
            time_base=given.time_base,
        ),
        # The time of `origin` becomes 0; then pauses are filled, and what is before 0 is cut off.
        graph.add("asetpts", f"PTS-({float(origin)}/TB)"),
        graph.add("aresample", f"{stream.rate}:async=1:first_pts=0"),
        graph.add("aformat", f"sample_fmts=fltp:channel_layouts={stream.layout.name}"),
        graph.add("asetnsamples", "n=1024"),
        graph.add("abuffersink"),
    ]
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()

    def pulled() -> Iterator[AudioFrame]:
        while True:
            try:
                yield graph.pull()  # type: ignore[misc]
            except (av.BlockingIOError, av.EOFError):
                return

    for frame in chain([given], frames):
        graph.push(frame)
        yield from pulled()
    graph.push(None)
    yield from pulled()


def middle_of(packet: AudioPacket) -> Fraction:
    """The time of a packet's middle in seconds: a packet belongs to the clip if more than half of it does."""
    assert packet.pts is not None
    assert packet.time_base is not None
    return (packet.pts + Fraction(packet.duration or 0) / 2) * packet.time_base
