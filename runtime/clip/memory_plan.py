"""What a clip will take on the device, known from the bundle alone before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ...engines import contract
from ...engines.backends import open_device
from ...engines.bundle import Bundle
from ...errors import ConfigError, DeviceError
from .denoise import segment_specs
from .layout import Layout, Segment
from .order import ORDERS
from .windows import DEFAULT_OVERLAP, POLICIES, Known

LANES = (
    contract.PREPARE,
    (contract.DENOISING_UNET,),
    (contract.VAE_DECODER,),
)  # engines that share activations


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on the device. None is for what the backend keeps to itself."""

    weights: int | None  # of all engines but the UNet's second form, which is loaded when first used
    activations: int | None  # one block for each stream
    inputs_and_outputs: int  # of the engines
    reference: int  # of each in the cache
    clip: int  # latents, sums of predictions and pose features at their peak, and a row for each step
    peak_frames: int  # how many frames have them then

    @property
    def total(self) -> int:
        """With one reference, and without what the backend keeps to itself."""
        parts = (self.weights, self.activations, self.inputs_and_outputs, self.reference, self.clip)
        return sum(part for part in parts if part is not None)


def plan_memory(
    bundle: Bundle, *, num_frames: int, num_steps: int, overlap: int, windows: str, order: str
) -> MemoryPlan:
    """The plan of one clip on one denoising stream."""
    manifest = bundle.manifest
    graphs, memory = manifest.graphs, manifest.memory
    own = (
        spec
        for engine_stream in LANES
        for graph in engine_stream
        for spec in (*graphs[graph].inputs, *graphs[graph].outputs)
    )
    reference = {spec.name: spec.num_bytes for spec in graphs[contract.REFERENCE_NET].outputs}
    policy = POLICIES[windows](Known(num_frames), manifest.bucket.window, overlap)
    clip, peak_frames = peak(bundle, Layout(policy), num_steps, order)
    time_rows = num_steps * graphs[contract.TIME_EMBEDDING].outputs[0].num_bytes
    return MemoryPlan(
        weights=sum(memory[graph].weights for engine_stream in LANES for graph in engine_stream)
        if memory
        else None,
        activations=sum(contract.shared_activations(memory, engine_stream) for engine_stream in LANES)
        if memory
        else None,
        inputs_and_outputs=sum(spec.num_bytes for spec in own if spec.name not in reference),
        reference=sum(reference.values()),
        clip=clip + time_rows,
        peak_frames=peak_frames,
    )


def memory_report(bundle: Bundle, num_frames: int, num_steps: int) -> str:
    """For people: a clip in both orders, side by side, and what is free."""
    if num_frames < 1 or num_steps < 1:
        raise ConfigError(
            f"memory plan: expected at least 1 frame and 1 step, found {num_frames} and {num_steps}"
        )
    overlap = min(DEFAULT_OVERLAP, bundle.manifest.bucket.window - 1)
    orders = {"uniform, step-major": ("uniform", "step-major"), "open, time-skewed": ("open", "time-skewed")}
    plans = [
        plan_memory(
            bundle, num_frames=num_frames, num_steps=num_steps, overlap=overlap, windows=windows, order=order
        )
        for windows, order in orders.values()
    ]
    columns = [
        ("", *orders),
        ("weights", *(megabytes(plan.weights) for plan in plans)),
        ("activations", *(megabytes(plan.activations) for plan in plans)),
        ("inputs and outputs", *(megabytes(plan.inputs_and_outputs) for plan in plans)),
        ("one reference", *(megabytes(plan.reference) for plan in plans)),
        ("latents, pose features", *(f"{megabytes(p.clip)} ({p.peak_frames} frames)" for p in plans)),
        ("total", *(megabytes(plan.total) for plan in plans)),
    ]
    lines = [f"{name:24}{one:>28}{other:>28}" for name, one, other in columns]
    head = f"memory of a clip of {num_frames} frames in {num_steps} steps, overlap {overlap}, in MB"
    return "\n".join([head, *lines, free(bundle)])


def megabytes(num_bytes: int | None) -> str:
    return "not stated" if num_bytes is None else f"{num_bytes / 1e6:.1f}"


def free(bundle: Bundle) -> str:
    """What the device has left, or why nobody knows."""
    try:
        device = open_device(bundle.manifest.backend)
    except DeviceError as error:
        return f"free: unknown, {error}"
    try:
        return f"free: {device.free_bytes() / 1e6:.1f} MB on {device.description}"
    finally:
        device.close()


def peak(bundle: Bundle, layout: Layout, num_steps: int, order: str) -> tuple[int, int]:
    """The most bytes of segments under way, and frames of them, while the tasks are issued in that order."""
    unet = bundle.manifest.graphs[contract.DENOISING_UNET]
    under_way: dict[Segment, int] = {}  # bytes of each
    most = (0, 0)
    for window, step in ORDERS[order](layout, num_steps):
        segments = [segment for segment, _ in layout.places(window)]
        for segment in segments:
            if segment not in under_way:
                under_way[segment] = sum(spec.num_bytes for spec in segment_specs(segment, unet))
                num_frames = sum(len(other.frames) for other in under_way)
                most = max(most, (sum(under_way.values()), num_frames))
        if step == num_steps - 1:
            for segment in segments:
                if segment.windows[-1] == window:
                    del under_way[segment]
    return most
