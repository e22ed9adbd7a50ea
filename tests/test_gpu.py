"""Tests that need a GPU: streams, the sampler's kernel, engines against PyTorch, clips.

Engines are TensorRT plans, where TensorRT supports the GPU, and the graphs' PyTorch modules on our streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from animate_rt import Animator, DeviceError
from animate_rt.engines import contract
from animate_rt.engines.backends import load_engine
from animate_rt.engines.bundle import Bundle, open_bundle
from animate_rt.engines.contract import Contract, DType
from animate_rt.engines.cpu import device as cpu
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.cuda.plan import build_plan, compute_capabilities
from animate_rt.engines.cuda.tensorrt import logger, provider
from animate_rt.engines.device import Buffer, Device, Estimate, Term, Update
from numpy.typing import NDArray
from onnx import TensorProto, helper

pytestmark = pytest.mark.gpu

Array = NDArray[Any]
DECIBELS = {"fp32": 45, "fp16": 30}  # minimum PSNR of a clip against the public implementation


class Engines(NamedTuple):
    """A bundle, and the function that loads its engines."""

    bundle: Bundle
    load: Callable[[Bundle, str, Device], Any]

    def animator(self, **options: Any) -> Animator:
        return Animator(self.bundle, device=CUDADevice(timing=False), load=self.load, **options)


@pytest.fixture(scope="module")
def device() -> Iterator[CUDADevice]:
    """The GPU, with timing enabled."""
    try:
        from cuda.core import Device

        Device(0).set_current()
    except Exception as error:  # cuda.core's own errors have no public class
        pytest.skip(f"no GPU here: {error}")
    opened = CUDADevice(timing=True)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def plans_run(device: CUDADevice, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip if TensorRT is missing or does not support this GPU; tensorrt_rtx supports only some."""
    try:
        trt, capabilities = provider(), compute_capabilities()
    except DeviceError as error:
        pytest.skip(str(error))
    if device.compute_capability not in capabilities:
        pytest.skip(f"{trt.__name__} {trt.__version__} does not build for {device.compute_capability}")
    folder = tmp_path_factory.mktemp("probe")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), folder / "probe.onnx")
    build_plan(folder / "probe.onnx", folder / "probe.plan")
    runtime = trt.Runtime(logger(trt))
    if runtime.deserialize_cuda_engine((folder / "probe.plan").read_bytes()) is None:
        pytest.skip(f"{trt.__name__} {trt.__version__} does not run plans on {device.description}")


@pytest.fixture(scope="module", params=["tensorrt fp32", "tensorrt fp16", "torch fp32", "torch fp16"])
def engines(request: pytest.FixtureRequest, small: Any, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    kind, precision = request.param.split()
    request.getfixturevalue("device")
    if kind == "torch":
        from animate_rt.benchmarks.baselines.torch_engine import torch_bundle, torch_engines

        bucket = contract.ShapeBucket(width=small.width, height=small.height, window=small.window)
        given = small.checkpoint, small.inference_config
        return Engines(torch_bundle(*given, bucket, precision), torch_engines(*given))
    from animate_rt.export import build_bundle

    request.getfixturevalue("plans_run")
    path = tmp_path_factory.mktemp("tensorrt") / precision
    build_bundle(small.checkpoint, path, backend="tensorrt", precision=precision, **small.build_options)
    return Engines(open_bundle(path), load_engine)


class Bench:
    """An engine with its own stream, execution context and buffers."""

    def __init__(self, device: CUDADevice, engine: Any):
        self.engine = engine
        self.stream = device.stream("bench")
        self.context = engine.context(device.buffer("uint8", (max(1, engine.activation_bytes),)))
        specs = (*engine.contract.inputs, *engine.contract.outputs)
        self.buffers = {spec.name: device.buffer(spec.dtype, spec.shape) for spec in specs}
        self.host = {spec.name: device.host_buffer(spec.dtype, spec.shape) for spec in specs}
        for name, buffer in self.buffers.items():
            self.context.bind(name, buffer)

    def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.engine.contract.outputs]
        for name, content in inputs.items():
            write(self.host[name], content)
        self.stream.copy(*((self.buffers[name], self.host[name]) for name in inputs))
        self.context.enqueue(self.stream)
        self.stream.copy(*((self.host[name], self.buffers[name]) for name in names))
        self.stream.record().synchronize()
        return {name: read(self.host[name]) for name in names}


def write(buffer: Buffer, content: Array | float) -> None:
    assert buffer.array is not None
    buffer.array[...] = content


def read(buffer: Buffer) -> Array:
    assert buffer.array is not None
    return buffer.array.copy()


def test_copies_of_whole_buffers_and_of_rows(device: CUDADevice) -> None:
    stream, shape = device.stream("copy"), (5, 3, 7)
    dtypes: tuple[DType, ...] = ("float32", "float16", "uint8", "int32")
    for dtype in dtypes:
        source, target = device.host_buffer(dtype, shape), device.host_buffer(dtype, shape)
        first, second = device.buffer(dtype, shape), device.buffer(dtype, shape)
        write(source, np.arange(105).reshape(shape))
        write(target, 0)
        stream.copy((first, source), (second.rows(0, 2), first.rows(3, 5)))
        stream.copy((target.rows(1, 3), second.rows(0, 2)))
        stream.record().synchronize()
        assert np.array_equal(read(target)[1:3], read(source)[3:5])
        assert not read(target)[[0, 3, 4]].any()


@pytest.mark.parametrize(("first", "last"), [(True, True), (True, False), (False, False), (False, True)])
def test_the_sampler_equals_the_cpu_bit_for_bit(device: CUDADevice, first: bool, last: bool) -> None:
    chance, stream, shape = np.random.default_rng(0), device.stream("update"), (3, 4, 33, 17)
    arrays = [chance.standard_normal(shape).astype(np.float32) for _ in range(5)]
    host, buffers = [device.host_buffer("float32", shape) for _ in arrays], []
    for buffer, array in zip(host, arrays, strict=True):
        write(buffer, array)
        buffers.append(device.buffer("float32", shape))
    mirror = [Buffer("float32", shape, array.ctypes.data, array=array) for array in arrays]

    def update(latents: Buffer, total: Buffer, prediction: Buffer, *estimates: Buffer) -> Update:
        earlier = tuple(map(Term, estimates, (0.345678912, -1.2345678)))
        estimate = Estimate(estimates[1], 0.234567891, -0.456789123)
        return Update(latents, total, prediction, first, last, 0.987654321, -0.123456789, earlier, estimate)

    stream.copy(*zip(buffers, host, strict=True))
    stream.update([update(*buffers)])
    stream.copy(*zip(host, buffers, strict=True))
    stream.record().synchronize()
    cpu.apply(update(*mirror))
    compared = [0, 2, 3, 4] if last else range(5)  # the sum is undefined after the last window
    assert all(np.array_equal(read(host[i]), arrays[i]) for i in compared)


def test_events_order_streams_and_have_times(device: CUDADevice) -> None:
    """Two streams copy a block in turns; each copy has to see the one before."""
    streams, shape = [device.stream(f"order {i}") for i in range(2)], (16 << 20,)
    source, target = device.host_buffer("uint8", shape), device.host_buffer("uint8", shape)
    blocks = [device.buffer("uint8", shape) for _ in range(9)]
    for value in range(1, 4):
        write(source, value)
        streams[0].copy((blocks[0], source))
        events = [streams[0].record()]
        for i in range(8):
            stream = streams[(i + 1) % 2]
            stream.wait(events[-1], needs=True)
            stream.copy((blocks[i + 1], blocks[i]))
            events.append(stream.record())
        streams[0].copy((target, blocks[-1]))
        events.append(streams[0].record())
        for event in reversed(events):
            event.synchronize()
        assert [event.time_s for event in events] == sorted(event.time_s for event in events)
        assert (read(target) == value).all()


def test_a_captured_operation_is_replayed(device: CUDADevice) -> None:
    chance, stream, shape = np.random.default_rng(0), device.stream("capture"), (2, 4, 33, 17)
    arrays = [chance.standard_normal(shape).astype(np.float32) for _ in range(2)]
    host, buffers = [device.host_buffer("float32", shape) for _ in arrays], []
    for buffer, array in zip(host, arrays, strict=True):
        write(buffer, array)
        buffers.append(device.buffer("float32", shape))
    numbers: dict[str, Any] = {"first": True, "last": True, "a": 0.9, "b": -0.4}
    updates = [Update(buffers[0], None, buffers[1], **numbers)]
    stream.copy(*zip(buffers, host, strict=True))
    stream.update(updates)
    graph = stream.capture(lambda: stream.update(updates))
    for _ in range(2):
        graph.launch(stream)
    del graph  # while it may be running
    stream.copy((host[0], buffers[0]))
    stream.record().synchronize()
    mirror = [Buffer("float32", shape, array.ctypes.data, array=array) for array in arrays]
    for _ in range(3):
        cpu.apply(Update(mirror[0], None, mirror[1], **numbers))
    assert np.array_equal(read(host[0]), arrays[0])


def test_a_capture_that_fails_leaves_the_stream_as_it_was(device: CUDADevice) -> None:
    stream, source, target = device.stream("capture"), *(device.host_buffer("uint8", (64,)) for _ in range(2))
    buffer = device.buffer("uint8", (64,))
    with pytest.raises(DeviceError, match="cannot capture"):
        stream.capture(stream.stream.sync)
    write(source, 7)
    stream.copy((buffer, source), (target, buffer))
    stream.record().synchronize()
    assert (read(target) == 7).all()


def test_decoding_runs_while_windows_are_denoised(device: CUDADevice, engines: Engines) -> None:
    chance = np.random.default_rng(0)
    denoise, decode = (
        Bench(device, engines.load(engines.bundle, graph, device))
        for graph in ("denoising_unet", "vae_decoder")
    )
    for bench in (denoise, decode):
        for _ in range(3):  # the plain run, the capture, a replay
            bench(given(bench.engine.contract, {}, chance))
    began = denoise.stream.record()
    for _ in range(200):
        denoise.context.enqueue(denoise.stream)
    denoised = denoise.stream.record()
    decode.context.enqueue(decode.stream)
    decoded = decode.stream.record()
    for event in (denoised, decoded):
        event.synchronize()
    assert began.time_s < decoded.time_s < denoised.time_s


def test_a_replay_computes_the_same_bits(device: CUDADevice, engines: Engines) -> None:
    chance = np.random.default_rng(0)
    for graph in engines.bundle.manifest.graphs:
        bench = Bench(device, engines.load(engines.bundle, graph, device))
        inputs = given(bench.engine.contract, {}, chance)
        results = [bench(inputs) for _ in range(4)]
        assert bench.context.graphs_enabled
        assert len(bench.context.graphs) == 1
        assert None not in bench.context.graphs.values()
        bench.context.graphs_enabled = False
        truth = bench(inputs)
        for result in results:
            assert all(result[name].tobytes() == truth[name].tobytes() for name in truth), graph


def test_engines_agree_with_pytorch(
    device: CUDADevice, engines: Engines, small: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against PyTorch in float32 on the CPU. Up to 3 times the error of PyTorch in float16 is allowed, as the
    GPU multiplies float32 in TF32, which rounds the factors to float16's precision."""
    import torch
    from animate_rt.export import load_checkpoint
    from animate_rt.export.graphs import graph_modules

    def networks(dtype: torch.dtype) -> dict[str, torch.nn.Module]:
        return graph_modules(load_checkpoint(small.checkpoint, small.inference_config, dtype))

    def run(module: torch.nn.Module, inputs: dict[str, Array], half: DType) -> list[Array]:
        arguments = (x.astype(half) if x.dtype == np.float16 else x for x in inputs.values())
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(argument) for argument in arguments))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    chance, known, failed = np.random.default_rng(0), dict[str, Array](), []
    bundle = engines.bundle
    halves = contract.contracts(bundle.manifest.model, bundle.manifest.bucket, "float16")
    truths, peers = networks(torch.float32), networks(torch.float16)
    with capsys.disabled():
        print(f"\n{bundle.manifest.precision} on {device.description}, {bundle.manifest.backend_version}")
        print(f"{'graph':28} {'engine':>9} {'float16':>9}  (relative to PyTorch in float32)")
        for graph, specs in halves.items():
            inputs = given(specs, known, chance)
            truth = run(truths[graph], inputs, "float32")
            known |= {spec.name: values for spec, values in zip(specs.outputs, truth, strict=True)}
            found = Bench(device, engines.load(bundle, graph, device))(inputs)
            error = distance([found[spec.name] for spec in specs.outputs], truth)
            peer = distance(run(peers[graph], inputs, "float16"), truth)
            print(f"{graph:28} {error:9.1e} {peer:9.1e}")
            if not error <= 3 * peer + 1e-4:
                failed.append(graph)
    assert not failed


def given(specs: Contract, known: dict[str, Array], chance: np.random.Generator) -> dict[str, Array]:
    """Inputs for a graph: outputs of earlier graphs where there are any, and random values."""
    inputs: dict[str, Array] = {}
    for spec in specs.inputs:
        if spec.name in known:
            values = np.broadcast_to(known[spec.name], spec.shape)
        elif spec.dtype == "uint8":
            values = chance.integers(0, 256, spec.shape)
        else:
            fixed = {"num_frames": 3.0, "timestep": 500.0, "guidance_scale": 3.5}.get(spec.name)
            values = chance.standard_normal(spec.shape) if fixed is None else np.full(spec.shape, fixed)
        inputs[spec.name] = np.ascontiguousarray(values, np.dtype(spec.dtype))
    return inputs


def distance(found: list[Array], truth: list[Array]) -> float:
    """Root mean square of the differences over that of the truth; the largest of several tensors'."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(found, truth, strict=True)]
    return max(float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))) for a, b in pairs)


def test_a_clip_is_close_to_the_public_implementation(
    device: CUDADevice, engines: Engines, small: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = small.io["video"][0].transpose(1, 2, 3, 0)
    with engines.animator() as animator:
        clips = [clip(animator, small) for _ in range(2)]
        runs = {graph: engine.runs for graph, engine in animator.session.engines.items()}
        (unet,) = animator.session.denoise[0].bound_engines.values()
        assert unet.context.graphs_enabled
        assert None not in unet.context.graphs.values()
    decibels = -10 * math.log10(np.mean((clips[0] / 255 - truth) ** 2))
    manifest = engines.bundle.manifest
    with capsys.disabled():
        print(f"\n{manifest.backend_version} {manifest.precision} on {device.description}: {decibels:.1f} dB")
    assert decibels >= DECIBELS[manifest.precision]
    assert np.array_equal(clips[0], clips[1])
    assert runs["reference_net"] == 1  # the second clip found it in the cache
    assert runs["vae_decoder"] == 2 * small.frames


def test_order_and_number_of_streams_do_not_change_a_clip(engines: Engines, small: Any) -> None:
    """With windows denoised in parallel, and frames decoded at the same time."""
    clips = []
    for order, streams in (("step-major", 1), ("time-skewed", 1), ("time-skewed", 2)):
        with engines.animator(denoise_streams=streams) as animator:
            clips += [clip(animator, small, windows="open", order=order) for _ in range(2)]
    assert all(np.array_equal(frames, clips[0]) for frames in clips)


def clip(animator: Animator, small: Any, **options: Any) -> Array:
    return np.stack(list(animator.animate(small.reference, small.pose, **small.animate_options | options)))
