"""The watermark measured: python -m animate_rt.benchmarks.marks RESULT.json [--clips 100] [--models DIR]

How faint it is, what it survives, how often it is seen where it is not, and what it costs. With the networks
of `animate-rt models fetch rivagan`, the same for RivaGAN on fewer clips. Clips are drawn scenes, which have
no noise that could hide a pattern, and still photographs of scikit-image.
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
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputMissing
from ..runtime.marks.pattern import Pattern
from ..runtime.marks.rivagan import RivaGAN
from ..runtime.marks.watermark import THRESHOLD, Payload, Watermark
from ..runtime.media.picture import Frame, fit
from .instruments.accuracy import compare_frames
from .puppets.world.scene import Scene
from .reporting.result import Result, read_result

FRAMES, SIDES = 24, (256, 128, 512)  # most clips have the first side
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
RESULTS = Path(__file__).parent / "results"
FEW = 12  # clips for RivaGAN
Change = Callable[[list[Frame]], list[Frame]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--unmarked", type=int, default=1000)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--picture", type=Path, help="write frame, marked frame and difference x 10")
    given = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    if given.picture:
        Image.fromarray(before_and_after()).save(given.picture)
    results: dict[str, Any] = {"pattern": measure(Pattern(), given.clips), "cost": cost(Pattern())}
    results["unmarked"] = unmarked(given.unmarked)
    try:
        rivagan = RivaGAN(given.models)
    except InputMissing as error:
        print(error, file=sys.stderr)
    else:
        results["rivagan"] = measure(rivagan, min(FEW, given.clips))
        results["rivagan_cost"] = cost(rivagan)
    workload = {"clips": given.clips, "frames": FRAMES, "sides": SIDES, "threshold": THRESHOLD}
    result = Result(kind="marks", workload=workload, results=results)
    result.write(given.result)
    print(json.dumps(results, indent=1))


def clips(count: int) -> Iterator[tuple[str, list[Frame]]]:
    """Clips by name: drawn scenes, two tenths of them of another size, and photographs that do not move."""
    for seed in range(count):
        side = {8: SIDES[1], 9: SIDES[2]}.get(seed % 10, SIDES[0])
        scene = Scene("held-out", seed, side)
        yield f"scene {side}", [scene.frame(index) for index in range(FRAMES)]
    for name, picture in photographs():
        yield (
            f"photograph {name}",
            [np.asarray(picture.resize((256, 384), Image.Resampling.LANCZOS))] * FRAMES,
        )


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


def measure(watermark: Watermark, count: int) -> dict[str, Any]:
    """How faint a mark is, and how many of the clips keep all 32 bits after each change."""
    quality: list[dict[str, Any]] = []
    whole: dict[str, list[bool]] = {name: [] for name in CHANGES}
    found: dict[str, list[bool]] = {name: [] for name in CHANGES}
    lost: dict[str, set[str]] = {name: set() for name in CHANGES}
    for number, (name, plain) in enumerate(clips(count)):
        payload = Payload.of(f"clip {number}")
        height, width = plain[0].shape[:2]
        marked = list(map(watermark.marker(width, height, payload), plain))
        quality.append(compare_frames(marked, plain))
        for change, apply in CHANGES.items():
            reading = watermark.read(apply(marked))
            whole[change].append(reading.payload == payload)
            found[change].append(reading.found)
            if reading.payload != payload:
                lost[change].add(name)
        print(f"{watermark.name}: {number + 1} clips", file=sys.stderr, flush=True)
    decibels = [each["psnr_db"] for each in quality]
    return {
        "clips": len(quality),
        "psnr_db": {"median": median(decibels), "least": min(decibels)},
        "ssim": {"median": median(q["ssim"] for q in quality), "least": min(q["ssim"] for q in quality)},
        "flicker": {
            "median": median(q["flicker"] for q in quality),
            "most": max(q["flicker"] for q in quality),
        },
        "recovered": {name: share(values) for name, values in whole.items()},
        "found": {name: share(values) for name, values in found.items()},
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


def cost(watermark: Watermark) -> dict[str, Any]:
    """Milliseconds per frame, and the share of a clip of the size `mid` (results/clip-mid-*.json)."""
    frames = [Scene("held-out", 1, 256).frame(index) for index in range(4)]
    mark = watermark.marker(256, 256, Payload(1))
    seconds = []
    for round_ in range(9):
        began = perf_counter()
        for frame in frames:
            mark(frame)
        if round_:  # the first warms up
            seconds.append((perf_counter() - began) / len(frames))
    found: dict[str, Any] = {"ms_per_frame_256": 1000 * median(seconds)}
    for path in sorted(RESULTS.glob("clip-mid-*.json")):
        clip = read_result(path)
        times = next(iter(clip.samples.values()))
        found[f"share_of_{path.stem}"] = clip.workload["frames"] * median(seconds) / median(times)
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
