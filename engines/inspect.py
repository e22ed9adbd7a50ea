"""Describes a bundle as text: a table of its settings and a table of its graphs."""

from __future__ import annotations

from textwrap import wrap

from ..text import escaped
from .bundle import Bundle
from .contract import TensorSpec
from .cpu.quantized_layers import QuantizedLayers
from .manifest import WEIGHTS, Manifest
from .precision import QUANTIZED

WIDTH = 110  # characters of a line with names of layers
LOSSY = " (lossy: convolutions and linear layers of the denoising UNet in 8 bits)"


def report(bundle: Bundle) -> str:
    """Describe a verified bundle in several lines of text."""
    manifest = bundle.manifest
    width = max(len(name) for name, _ in settings(bundle))
    lines = [f"{name:<{width}}  {value}" for name, value in settings(bundle)]
    return "\n".join([*lines, "", *graph_table(manifest), *quantized_table(bundle)])


def settings(bundle: Bundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    model, bucket = manifest.model, manifest.bucket
    path, size = escaped(str(bundle.path)), sum(file.num_bytes for file in manifest.files.values())
    unet, motion, noise, sampling = model.unet, model.motion, model.noise, model.sampling
    steps = f"timesteps {join(sampling.timesteps)}" if sampling.timesteps else f"{sampling.steps} steps"
    return [
        (
            "bundle",
            f"{path}  ({size / 1e6:.1f} MB in {len(manifest.files)} files, all verified)",
        ),
        ("digest", bundle.digest),
        ("backend", f"{manifest.backend}, built with {manifest.backend_version}"),
        ("precision", f"{manifest.precision}{LOSSY if manifest.precision == 'int8' else ''}"),
        *((f"calibrated on {name}", digest) for name, digest in manifest.calibration.items()),
        *([("devices", ", ".join(manifest.compute_capabilities))] if manifest.compute_capabilities else []),
        ("model", model.member),
        (
            "size",
            f"{bucket.width}x{bucket.height} pixels, window of {bucket.window} frames"
            f"{'; frames are resized to the size of the reference' if model.reference_size else ''}",
        ),
        (
            "denoising UNet",
            f"widths {join(unet.widths)}, heads {join(unet.heads)}, {unet.layers_per_block} layers per block",
        ),
        ("motion modules", f"{motion.heads} heads, windows of up to {motion.max_frames} frames"),
        ("VAE", f"widths {join(model.vae.widths)}"),
        (
            "noise schedule",
            f"{noise.beta_schedule}, {noise.prediction_type}, {noise.timestep_spacing} spacing"
            f"{', zero terminal SNR' if noise.rescale_betas_zero_snr else ''}",
        ),
        (
            "sampling",
            f"{steps}, guidance scale {sampling.guidance_scale:g}, unless a clip sets others",
        ),
        (
            "poses",
            f"{', '.join(model.pose_tracks)} in each frame"
            if model.pose_tracks
            else f"skeletons in the style {model.pose_style}",
        ),
        *((f"weights of {name}", digest) for name, digest in manifest.weights.items()),
    ]


def graph_table(manifest: Manifest) -> list[str]:
    """Lines on every graph with its inputs and outputs; the reference's tensors are summed up in one line."""
    lines = []
    for name, contract in manifest.graphs.items():
        file = manifest.files[f"graphs/{name}.onnx"]
        lines.append(f"{name}  ({file.num_bytes / 1e3:.0f} kB)")
        lines += [f"  in   {line}" for line in specs(contract.inputs)]
        lines += [f"  out  {line}" for line in specs(contract.outputs)]
    return lines


def quantized_table(bundle: Bundle) -> list[str]:
    """In precision int8, how many layers of each quantized graph are in 8 bits, and the others by name."""
    lines = []
    for graph in QUANTIZED:
        if bundle.manifest.precision == "int8" and graph in bundle.manifest.graphs:
            weights = bundle.manifest.files[WEIGHTS].num_bytes
            num_quantized, left = QuantizedLayers.read(bundle.engine(graph), weights).table()
            number = num_quantized + sum(map(len, left.values()))
            lines += ["", f"{graph}: {num_quantized} of {number} convolutions and matrix products in 8 bits"]
            for why, names in left.items():
                text = f"in float ({why}): {escaped(', '.join(names))}"
                lines += wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def specs(tensors: tuple[TensorSpec, ...]) -> list[str]:
    reference = [t for t in tensors if t.name.startswith(("key_", "value_", "cross_"))]
    lines = [f"{t.name} {t.dtype} {join(t.shape, 'x')}" for t in tensors if t not in reference]
    if reference:
        size = sum(tensor.num_bytes for tensor in reference)
        lines.append(f"key_*, value_*, cross_* of {len(reference) // 3} blocks ({size / 1e6:.1f} MB)")
    return lines


def join(values: tuple[int, ...], separator: str = ", ") -> str:
    return separator.join(map(str, values))
