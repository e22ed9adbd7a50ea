"""The watermark measured: python -m animate_rt.benchmarks.marks RESULT.json [--demo BUNDLE] [--mid BUNDLE]

How faint it is, what it survives, how often it is seen where it is not, and what it costs beside a clip of
the bundle that is given with --mid. With the networks of `animate-rt models fetch rivagan`, the same for
RivaGAN on some of the clips. Clips are drawn scenes, which have no noise that could hide a pattern, still
photographs of scikit-image, and the demo.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputMissing
from ..runtime.animator import Animator
from ..runtime.clip.options import ClipOptions
from ..runtime.marks.pattern import Pattern
from ..runtime.marks.rivagan import RivaGAN
from ..runtime.marks.watermark import THRESHOLD, Payload, Watermark
from ..runtime.media.picture import Frame, fit
from .instruments.accuracy import compare_frames
from .puppets.world.scene import Scene
from .reporting.result import Result
from .workload import Workload

FRAMES, SIDES = 24, (256, 128, 512)  # most clips have the first side
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
DEMO = Path(__file__).parents[1] / "weights" / "demo"
MID_FRAMES, MID_STEPS = 16, 10  # as in results/clip-mid-*.json
FEW = 6  # scenes for RivaGAN, which takes long
Change = Callable[[list[Frame]], list[Frame]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--unmarked", type=int, default=1000)
    parser.add_argument("--demo", type=Path, metavar="BUNDLE", help="the demo's bundle")
    parser.add_argument("--mid", type=Path, metavar="BUNDLE", help="a bundle to measure the cost beside")
    parser.add_argument("--models", type=Path, metavar="DIR", help="where RivaGAN's networks are")
    parser.add_argument("--picture", type=Path, help="write frame, marked frame and difference x 10")
    given = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    if given.picture:
        Image.fromarray(before_and_after()).save(given.picture)
    demo = demo_clip(given.demo) if given.demo else []
    results: dict[str, Any] = {"pattern": measure(Pattern(), given.clips, demo)}
    results["unmarked"] = unmarked(given.unmarked)
    clip_s = clip_seconds(given.mid) if given.mid else None
    results["cost"] = cost(Pattern(), clip_s)
    try:
        rivagan = RivaGAN(given.models)
    except InputMissing as error:
        print(error, file=sys.stderr)
    else:
        results["rivagan"] = measure(rivagan, min(FEW, given.clips), demo)
        results["rivagan_cost"] = cost(rivagan, clip_s)
    workload = {"clips": given.clips, "frames": FRAMES, "sides": SIDES, "threshold": THRESHOLD}
    result = Result(kind="marks", workload=workload, results=results)
    result.write(given.result)
    print(json.dumps(results, indent=1))


def clips(count: int, demo: list[Frame]) -> Iterator[tuple[str, list[Frame]]]:
    """Clips by kind: drawn scenes, two tenths of them of another size, photographs that do not move, demo."""
    if demo:
        yield "demo", demo
    for seed in range(count):
        side = {8: SIDES[1], 9: SIDES[2]}.get(seed % 10, SIDES[0])
        scene = Scene("held-out", seed, side)
        yield f"scene {side}", [scene.frame(index) for index in range(FRAMES)]
    for name, picture in photographs():
        yield (
            f"photograph {name}",
            [np.asarray(picture.resize((256, 384), Image.Resampling.LANCZOS))] * FRAMES,
        )


def demo_clip(bundle: Path) -> list[Frame]:
    with Animator.load(bundle) as animator:
        return list(animator.animate(DEMO / "reference.png", DEMO / "pose"))[:FRAMES]


def photographs() -> Iterator[tuple[str, Image.Image]]:
    try:
        from skimage import data
    except ImportError:
        print("scikit-image is not installed: no photographs", file=sys.stderr)
        return
    for name in PHOTOGRAPHS:
        try:
            yield name, Image.fromarray(getattr(data, name)()).convert("RGB")
        except Exception as error:  # some have to be downloaded
            print(f"{name}: {error}", file=sys.stderr)


def measure(watermark: Watermark, count: int, demo: list[Frame]) -> dict[str, Any]:
    """How faint a mark is, and what a detector says of the clips after each change.

    found: share of the clips in which the mark was found. stated: share of the clips whose bits were stated.
    stated_right: share of these whose bits were right, or None. recovered: share of the clips whose bits were
    right, stated or not.
    """
    quality: list[dict[str, Any]] = []
    kinds: dict[str, list[float]] = {}
    bits: dict[str, list[int]] = {name: [] for name in CHANGES}
    whole: dict[str, list[bool]] = {name: [] for name in CHANGES}
    found: dict[str, list[bool]] = {name: [] for name in CHANGES}
    stated: dict[str, list[bool]] = {name: [] for name in CHANGES}
    stated_right: dict[str, list[bool]] = {name: [] for name in CHANGES}
    lost: dict[str, set[str]] = {name: set() for name in CHANGES}
    for number, (name, plain) in enumerate(clips(count, demo)):
        payload = Payload.of(f"clip {number}")
        height, width = plain[0].shape[:2]
        marked = list(map(watermark.marker(width, height, payload), plain))
        quality.append(compare_frames(marked, plain))
        kinds.setdefault(name.split()[0], []).append(quality[-1]["psnr_db"])
        for change, apply in CHANGES.items():
            reading = watermark.read(apply(marked))
            whole[change].append(reading.payload == payload)
            found[change].append(reading.found)
            stated[change].append(reading.certain)
            if reading.certain:
                stated_right[change].append(reading.payload == payload)
            bits[change].append(sum(a == b for a, b in zip(reading.payload.bits, payload.bits, strict=True)))
            if reading.payload != payload:
                lost[change].add(name)
        print(f"{watermark.name}: {number + 1} clips", file=sys.stderr, flush=True)
    decibels = [each["psnr_db"] for each in quality]
    return {
        "clips": len(quality),
        "psnr_db": {"median": median(decibels), "least": min(decibels)},
        "psnr_db_by_kind": {kind: {"median": median(v), "least": min(v)} for kind, v in kinds.items()},
        "ssim": {"median": median(q["ssim"] for q in quality), "least": min(q["ssim"] for q in quality)},
        "flicker": {
            "median": median(q["flicker"] for q in quality),
            "most": max(q["flicker"] for q in quality),
        },
        "found": {name: share(values) for name, values in found.items()},
        "stated": {name: share(values) for name, values in stated.items()},
        "stated_right": {name: share(values) if values else None for name, values in stated_right.items()},
        "recovered": {name: share(values) for name, values in whole.items()},
        "right_bits": {name: sum(values) / len(values) for name, values in bits.items()},
        "lost": {name: sorted(names) for name, names in lost.items() if names},
    }


def share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def encoded(codec: str, options: dict[str, str], frames: list[Frame]) -> list[Frame]:
    """Frames after a video codec."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, Fraction(24), options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.getvalue())) as container:
        decoded = container.decode(video=0)
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in decoded]


def h264(crf: int) -> Change:
    return lambda frames: encoded("libx264", {"crf": str(crf)}, frames)


def resized(frames: list[Frame], scale: float) -> list[Frame]:
    size = round(scale * frames[0].shape[1]), round(scale * frames[0].shape[0])
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]


def stretched(frames: list[Frame], scale: float) -> list[Frame]:
    """Wider, and as high as before."""
    height, width = frames[0].shape[:2]
    size = round(scale * width), height
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]


def cropped(frames: list[Frame]) -> list[Frame]:
    """Without a twentieth at each edge."""
    height, width = frames[0].shape[:2]
    y, x = height // 20, width // 20
    return [frame[y:-y, x:-x] for frame in frames]


def brighter(frames: list[Frame]) -> list[Frame]:
    return [np.clip(frame * 1.2 + 10, 0, 255).astype(np.uint8) for frame in frames]


def screenshot(frames: list[Frame]) -> list[Frame]:
    """One frame as a player shows it after H.264: enlarged, inside a larger grey picture."""
    shown = resized(h264(18)(frames)[len(frames) // 2 :][:1], 1.5)[0]
    height, width = shown.shape[:2]
    screen = np.full((height + 150, width + 330, 3), 245, np.uint8)
    screen[90 : 90 + height, 40 : 40 + width] = shown
    return [screen]


CHANGES: dict[str, Change] = {
    "none": lambda frames: frames,
    "H.264 crf 18": h264(18),
    "H.264 crf 23": h264(23),
    "H.264 crf 28": h264(28),
    "VP9 crf 32": lambda frames: encoded("libvpx-vp9", {"crf": "32", "b": "0", "cpu-used": "5"}, frames),
    "AV1 crf 35": lambda frames: encoded("libsvtav1", {"crf": "35", "preset": "8"}, frames),
    "resized to 50 %": lambda frames: resized(frames, 0.5),
    "resized to 50 %, then H.264 crf 23": lambda frames: h264(23)(resized(frames, 0.5)),
    "stretched by 5 %": lambda frames: stretched(frames, 1.05),
    "10 % cropped": cropped,
    "90 % of frames dropped": lambda frames: h264(23)(frames)[::10][:2],
    "brighter": brighter,
    "screenshot": screenshot,
    "mirrored": lambda frames: [np.ascontiguousarray(frame[:, ::-1]) for frame in frames],
    "turned by 2 degrees": lambda frames: [np.asarray(Image.fromarray(f).rotate(2)) for f in frames],
}


def unmarked(count: int) -> dict[str, Any]:
    """How many pictures and clips without a mark are taken for marked."""
    rates = []
    for number in range(count):
        rates.append(Pattern().read(plain(number)).false_positive_rate)
        if number % 100 == 99:
            print(f"unmarked: {number + 1}", file=sys.stderr, flush=True)
    return {"files": count, "marked": sum(rate <= THRESHOLD for rate in rates), "lowest_rate": min(rates)}


def plain(number: int) -> list[Frame]:
    """A picture or clip without a mark: a scene, noise, a gradient or a piece of a photograph."""
    chance = np.random.default_rng(number)
    height, width = (int(side) for side in chance.integers(64, 400, 2))
    kind = number % 4
    if kind == 0:
        scene = Scene("train", number, int(chance.choice((128, 192, 256))))
        return [scene.frame(index) for index in range(1 + number % 3)]
    if kind == 1:
        noise = chance.normal(128, chance.uniform(2, 80), (height, width, 3))
        return [np.clip(noise, 0, 255).astype(np.uint8)] * 2
    if kind == 2:
        x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
        waves = np.sin(x * chance.uniform(0, 300)) * np.sin(y * chance.uniform(0, 300))
        levels = chance.uniform(0, 255) * x + chance.uniform(0, 255) * y + chance.uniform(0, 60) * waves
        return [np.clip(levels[..., None].repeat(3, 2), 0, 255).astype(np.uint8)]
    pictures = list(photographs()) or [("", Image.fromarray(Scene("train", number, 256).frame(0)))]
    picture = pictures[number // 4 % len(pictures)][1]
    left, top = (int(chance.integers(0, side // 2)) for side in picture.size)
    return [
        fit(picture.crop((left, top, left + picture.width // 2, top + picture.height // 2)), width, height)
    ]


def clip_seconds(bundle: Path) -> float:
    """CPU seconds per frame of a clip."""
    with Animator.load(bundle) as animator:
        bucket = animator.bundle.manifest.bucket
        options = ClipOptions(steps=MID_STEPS, guidance_scale=3.5)
        workload = Workload(bucket=bucket, frames=MID_FRAMES, options=options)
        times = []
        for clip in range(2):  # the first warms up
            began = process_time()
            for _ in workload.animate(animator, clip, workload.pictures(clip)):
                pass
            times.append(process_time() - began)
    return times[-1] / MID_FRAMES


def cost(watermark: Watermark, clip_s: float | None) -> dict[str, Any]:
    """CPU milliseconds per frame of 256 x 256 and 512 x 768, and as a share of a clip's of 256 x 256."""
    found: dict[str, Any] = {}
    for width, height in ((256, 256), (512, 768)):
        frames = [fit(Image.fromarray(Scene("held-out", 1, 256).frame(i)), width, height) for i in range(4)]
        mark = watermark.marker(width, height, Payload(1))
        seconds = []
        for round_ in range(9):
            began = process_time()
            for frame in frames:
                mark(frame)
            if round_:  # the first warms up
                seconds.append((process_time() - began) / len(frames))
        found[f"cpu_ms_per_frame_{width}x{height}"] = 1000 * median(seconds)
        if clip_s is not None and width == 256:
            found |= {"clip_cpu_ms_per_frame": 1000 * clip_s, "share_of_clip": median(seconds) / clip_s}
    return found


def before_and_after() -> Frame:
    """A frame, the same frame marked, and ten times the difference, of a scene and of a photograph."""
    rows = []
    pictures = [Scene("held-out", 1, 384).frame(3)]
    pictures += [fit(picture, 384, 384) for name, picture in photographs() if name == "astronaut"]
    for frame in pictures:
        marked = Pattern().marker(384, 384, Payload.of("a picture for docs"))(frame)
        difference = np.clip(128 + 10 * (marked.astype(int) - frame), 0, 255).astype(np.uint8)
        rows.append(np.concatenate([frame, marked, difference], axis=1))
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
