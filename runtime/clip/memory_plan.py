"""The device memory of a clip, computed from the bundle's manifest before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...engines import contract
from ...engines.backends import open_device
from ...engines.bundle import Bundle
from ...engines.contract import Memory
from ...errors import ConfigError, DeviceError, OutOfMemory
from ...text import escaped, quoted
from ..streams.session import keeps_encoders
from .caching import kept_features
from .denoise import segment_specs
from .layout import Layout, Segment
from .options import ClipOptions, ClipSettings
from .solvers import num_estimates
from .windows import KnownLength

MAX_FRAMES = 20_000  # the plan is made window by window
SURELY = 1.2  # what a plan states may be more than what is taken, by this factor
STREAM_GRAPHS = (
    contract.PREPARE,
    (contract.VAE_DECODER,),
)  # by stream, without the UNet; the engines of one stream share one block of activations


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes of device memory; None where the backend does not report them."""

    weights: int | None  # of the engines that stay loaded, except the UNet's second variant
    activations: int | None  # one block for each stream
    inputs_and_outputs: int  # buffers of the engines
    reference: int  # one entry of the reference cache
    # Peak of latents, sums of predictions, estimates, pose features and cached features, plus the time rows.
    clip: int
    peak_frames: int  # frames that have these buffers at the peak
    # The most while the engines for a first clip are loaded, with pages of files, which the system can drop.
    loading: int | None
    encoders: int  # weights of the engines that are loaded again for each later reference

    @property
    def total(self) -> int:
        """The sum of all parts that are known, with one reference."""
        parts = (self.weights, self.activations, self.inputs_and_outputs, self.reference, self.clip)
        return sum(part for part in parts if part is not None)


def plan_memory(bundle: Bundle, settings: ClipSettings, num_frames: int) -> MemoryPlan:
    """Plan one clip on one denoising stream."""
    manifest = bundle.manifest
    graphs, memory = manifest.graphs, manifest.memory
    unet = contract.DENOISING_UNET
    unets = (contract.CACHING[unet], contract.SHALLOW[unet]) if settings.cached else (unet,)
    streams = (*STREAM_GRAPHS, unets)
    io_specs = (
        spec
        for stream in streams
        for graph in stream
        for spec in (*graphs[graph].inputs, *graphs[graph].outputs)
    )
    reference = {spec.name: spec.num_bytes for spec in graphs[contract.REFERENCE_NET].outputs}
    clip, peak_frames = peak(bundle, settings, num_frames)
    kept = keeps_encoders(manifest)
    loaded = [graph for stream in streams for graph in stream if kept or graph not in contract.REFERENCE]
    time_rows = len(settings.steps) * graphs[contract.TIME_EMBEDDING].outputs[0].num_bytes
    return MemoryPlan(
        weights=sum(memory[graph].weights for graph in loaded) if memory else None,
        activations=sum(contract.shared_activations(memory, stream) for stream in streams)
        if memory
        else None,
        inputs_and_outputs=sum(spec.num_bytes for spec in io_specs if spec.name not in reference),
        reference=sum(reference.values()),
        clip=clip + time_rows,
        peak_frames=peak_frames,
        loading=loading_peak(memory, loaded, unets)
        if any(needed.loading for needed in memory.values())
        else None,
        encoders=sum(memory[graph].weights for graph in contract.REFERENCE if not kept),
    )


def loading_peak(memory: dict[str, Memory], loaded: Sequence[str], unets: Sequence[str]) -> int:
    """The most that engines take while they are loaded: those of references first, the UNet last."""
    others = [graph for graph in loaded if graph not in (*unets, *contract.REFERENCE)]
    most = 0
    for graphs in ((*others, *contract.REFERENCE), loaded):
        most = max(most, sum(memory[graph].weights for graph in graphs) + memory[graphs[-1]].loading)
    return most


def check_room(bundle: Bundle) -> None:
    """Raise OutOfMemory if a bundle for a CPU surely has no room in its memory."""
    if bundle.manifest.backend != "openvino" or not bundle.manifest.memory:
        return
    plan = plan_memory(bundle, ClipOptions().resolve(bundle.manifest), bundle.manifest.bucket.window)
    device = open_device("openvino")
    free = device.free_bytes()
    device.close()
    if plan.total > SURELY * free:
        raise OutOfMemory(
            f"{escaped(str(bundle.path))}: expected {megabytes(plan.total)} MB of free memory, found "
            f"{megabytes(free)} MB; close other programs, or build it for a smaller size or window"
        )


def memory_report(bundle: Bundle, num_frames: int, options: ClipOptions) -> str:
    """Return a table of one clip's memory in both orders, and the device's free memory."""
    if not 1 <= num_frames <= MAX_FRAMES:
        raise ConfigError(
            f"frames: expected at least 1 frame and at most {MAX_FRAMES}, found {quoted(num_frames)}"
        )
    settings = {
        f"{windows}, {order}": replace(options, windows=windows, order=order).resolve(bundle.manifest)
        for windows, order in (("uniform", "step-major"), ("open", "time-skewed"))
    }
    plans = [plan_memory(bundle, each, num_frames) for each in settings.values()]
    columns = [
        ("", *settings),
        ("weights", *(megabytes(plan.weights) for plan in plans)),
        ("activations", *(megabytes(plan.activations) for plan in plans)),
        ("inputs and outputs", *(megabytes(plan.inputs_and_outputs) for plan in plans)),
        ("one reference", *(megabytes(plan.reference) for plan in plans)),
        ("latents, pose features", *(f"{megabytes(p.clip)} ({p.peak_frames} frames)" for p in plans)),
        ("total", *(megabytes(plan.total) for plan in plans)),
    ]
    if plans[0].loading:
        columns.append(("while loading", *(megabytes(plan.loading) for plan in plans)))
    if plans[0].encoders:
        columns.append(("later references add", *(megabytes(plan.encoders) for plan in plans)))
    lines = [f"{name:24}{one:>28}{other:>28}" for name, one, other in columns]
    first = next(iter(settings.values()))
    head = (
        f"memory of a clip of {num_frames} frames in {len(first.steps)} steps, overlap {first.overlap}, in MB"
    )
    return "\n".join([head, *lines, free_memory(bundle)])


def megabytes(num_bytes: int | None) -> str:
    return "not stated" if num_bytes is None else f"{num_bytes / 1e6:.1f}"


def free_memory(bundle: Bundle) -> str:
    """Return a line with the device's free memory, or why it is unknown."""
    try:
        device = open_device(bundle.manifest.backend)
    except DeviceError as error:
        return f"free: unknown, {error}"
    try:
        return f"free: {device.free_bytes() / 1e6:.1f} MB on {device.description}"
    finally:
        device.close()


def peak(bundle: Bundle, settings: ClipSettings, num_frames: int) -> tuple[int, int]:
    """Return the peak memory of a clip's segments in bytes, and the number of frames that they have."""
    layout, num_steps = Layout(settings.windows(KnownLength(num_frames))), len(settings.steps)
    estimates = num_estimates(settings.steps, num_steps)
    unet = bundle.manifest.graphs[contract.DENOISING_UNET]
    active: dict[Segment, int] = {}  # bytes
    most = now = (0, 0)
    features = [  # bytes that a window keeps, by the number of steps it has taken
        sum(spec.num_bytes for spec in kept_features(settings.cached, taken))
        for taken in range(num_steps + 1)
    ]
    for window, step in settings.order(layout, num_steps):
        segments = [segment for segment, _ in layout.places(window)]
        for segment in segments:
            if segment not in active:
                specs = segment_specs(segment, unet)
                active[segment] = sum(spec.num_bytes for spec in specs) + estimates * specs[0].num_bytes
                now = now[0] + active[segment], now[1] + len(segment.frames)
                most = max(most, now)
        now = now[0] + features[step + 1] - features[step], now[1]
        most = max(most, now)
        if step == num_steps - 1:
            now = now[0] - features[-1], now[1]
            for segment in segments:
                if segment.windows[-1] == window:
                    now = now[0] - active.pop(segment), now[1] - len(segment.frames)
    return most
