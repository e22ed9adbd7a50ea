"""TensorRT plans on the stand-in that do not fit the bundle, the GPU or the installed TensorRT."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import Any

import pytest
from animate_rt.engines.backends import load_engine, open_device
from animate_rt.engines.build_process import LOG_BYTES, describe_failure
from animate_rt.engines.bundle import MANIFEST, Bundle, open_bundle, seal
from animate_rt.engines.contract import POSE_GUIDER, TIME_EMBEDDING
from animate_rt.engines.cuda import plan, tensorrt
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.cuda.plan import PlanOptions, compute_capabilities
from animate_rt.errors import AnimateError, BundleError, BundleMismatch, ConfigError, DeviceError

from .standin import installed, tensorrt_bundle
from .standin import tensorrt as plans


@pytest.fixture(scope="module")
def bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tensorrt_bundle(small_bundle, tmp_path_factory.mktemp("plans") / "bundle"))


def changed(bundle: Bundle, folder: Path, plan: bytes | None = None, **manifest: Any) -> Bundle:
    """A copy of the bundle with another plan of the time embedding, or other fields in its manifest."""
    path = folder / "changed"
    shutil.copytree(bundle.path, path)
    if plan is not None:
        (path / "engines" / f"{TIME_EMBEDDING}.plan").write_bytes(plan)
    (path / MANIFEST).unlink()
    seal(path, dataclasses.replace(bundle.manifest, **manifest))
    return open_bundle(path)


@pytest.fixture
def opened() -> Iterator[CUDADevice]:
    with installed():
        device = CUDADevice(timing=False)
        yield device
        device.close()


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        ({"backend_version": "tensorrt 10.12.0"}, "which is installed, found plans of tensorrt 10.12.0"),
        ({"compute_capabilities": ("SM80", "SM89")}, r"expected plans for SM90 .* for SM80, SM89"),
        ({"compute_capabilities": ()}, "expected plans for SM90"),
    ],
)
def test_refuses_plans_of_another_tensorrt_or_gpu(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, manifest: dict[str, Any], found: str
) -> None:
    other = changed(bundle, tmp_path, **manifest)
    with pytest.raises(BundleMismatch, match=found) as caught:
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)
    assert "animate-rt build" in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"time_row": ("OUTPUT", "HALF", (1, 8))},
        {"time_row": ("OUTPUT", "FLOAT", (2, 8))},
        {"timestep": ("OUTPUT", "FLOAT", (1,))},
        {"another": ("INPUT", "FLOAT", (1,))},
    ],
)
def test_refuses_plans_that_break_the_contract(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    graph = json.loads(
        (bundle.path / "engines" / f"{TIME_EMBEDDING}.plan").read_bytes().removeprefix(plans.MAGIC)
    )["graph"]
    other = changed(bundle, tmp_path, plans.plan(Path(graph), "SM90", **tensors))
    with pytest.raises(BundleMismatch, match=f"{TIME_EMBEDDING}: {next(iter(tensors))}: expected"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


def test_refuses_a_plan_of_another_graph(opened: CUDADevice, bundle: Bundle, tmp_path: Path) -> None:
    other = changed(bundle, tmp_path, (bundle.path / "engines" / f"{POSE_GUIDER}.plan").read_bytes())
    with pytest.raises(BundleMismatch, match=r"frame: expected (none|nothing), found"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


@pytest.mark.parametrize("content", [b"", b"junk", plans.plan(Path("x"), "SM80")])
def test_refuses_plans_that_cannot_be_read_or_loaded(
    opened: CUDADevice, bundle: Bundle, tmp_path: Path, content: bytes
) -> None:
    other = changed(bundle, tmp_path, content)
    with pytest.raises(AnimateError, match=r"cannot (read|load) the plan: .") as caught:
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)
    assert isinstance(caught.value, BundleError if not content else DeviceError)
    (other.path / "engines" / f"{TIME_EMBEDDING}.plan").unlink()
    with pytest.raises(BundleError, match="cannot read the plan"):
        tensorrt.load_plan(other, TIME_EMBEDDING, opened)


def test_backends_open_cuda_devices_and_load_plans(opened: CUDADevice, bundle: Bundle) -> None:
    assert isinstance(open_device("tensorrt", timing=True), CUDADevice)
    loaded = load_engine(bundle, TIME_EMBEDDING, opened)
    assert loaded.contract == bundle.manifest.graphs[TIME_EMBEDDING]
    assert tensorrt.version() == bundle.manifest.backend_version


@pytest.mark.usefixtures("opened")
def test_the_error_recorder_overflows_when_it_drops_a_report() -> None:
    trt = tensorrt.provider()
    recorder = tensorrt.error_recorder(trt)
    code = trt.ErrorCodeTRT.INTERNAL_ERROR
    for i in range(tensorrt.MAX_REPORTS):
        assert recorder.report_error(code, f"reason {i}\n\x1b[31m" + "x" * 10**5)
    assert not recorder.has_overflowed()
    recorder.report_error(code, "the last")
    assert recorder.has_overflowed()
    assert recorder.num_errors() == tensorrt.MAX_REPORTS
    reasons = [reason for _code, reason in recorder.take()]
    assert reasons[-1] == "the last"
    assert all(reason.isprintable() and len(reason) <= tensorrt.MESSAGE for reason in reasons)
    assert not recorder.has_overflowed()


@pytest.mark.usefixtures("opened")
def test_a_capability_may_be_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "gpu", lambda: ("SM90", "a GPU"))
    assert compute_capabilities(PlanOptions(compute_capabilities=("SM90", "SM90"))) == ("SM90",)
    with pytest.raises(ConfigError, match="expected none"):
        compute_capabilities(PlanOptions(compute_capabilities=("SM90", "SM80")))


def test_a_log_of_any_size_becomes_one_line() -> None:
    log = BytesIO(b"\xff\x1b[31m" + b"x" * 10**6 + b"\n" + b"y" * 10**4 + b"\nthe end\n")
    log.seek(-LOG_BYTES, SEEK_END)
    line = describe_failure("TensorRT", 1, log)
    assert line.isprintable()
    assert line.endswith("| the end")
    assert len(line) < 3000
