"""Loading an animator: what is refused at once, what a failure leaves behind, bundles that are replaced."""

from __future__ import annotations

import logging
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animate_rt import Animator, BundleCorrupt, ConfigError, DeviceError, OutOfMemory
from animate_rt.engines.bundle import MANIFEST, open_bundle, seal
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.device import Device

from .arithmetic import ArithmeticEngine
from .clips import pictures, render
from .standin import installed, tensorrt_bundle

WRONG_ARGUMENTS = [
    ("denoise_streams", 0),
    ("denoise_streams", 1.0),
    ("denoise_streams", "2"),
    ("denoise_streams", True),
    ("denoise_streams", None),
    ("reference_cache_bytes", -1),
    ("reference_cache_bytes", 2.0**30),
    ("reference_cache_bytes", "1 GB"),
    ("reference_cache_bytes", 10**5000),
    ("observe", []),
]


def test_arguments_are_checked_before_anything_is_opened(arithmetic: Callable[..., Animator]) -> None:
    threads = threading.active_count()
    for name, value in WRONG_ARGUMENTS:
        with pytest.raises(ConfigError, match=f"^{name}: expected .*, found ") as caught:
            arithmetic(**{name: value})
        assert len(str(caught.value)) < 250
        assert threading.active_count() == threads


def test_numbers_of_any_integer_type_are_accepted(arithmetic: Callable[..., Animator]) -> None:
    with arithmetic(denoise_streams=np.int64(2), reference_cache_bytes=np.uint8(0)) as animator:
        assert len(animator.session.denoise) == 2
        assert len(render(animator, pose=pictures(2))) == 2


class Failing:
    """`load` for an animator: fails at the engine `graph`."""

    def __init__(self, graph: str, error: BaseException):
        self.graph, self.error = graph, error
        self.engines: list[ArithmeticEngine] = []

    def __call__(self, bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        if graph == self.graph:
            raise self.error
        return ArithmeticEngine(bundle, graph, device)


ERRORS = [DeviceError("no"), OutOfMemory("no"), MemoryError(), KeyboardInterrupt(), RuntimeError("no")]


def test_failed_loads_leave_no_thread(arithmetic: Callable[..., Animator]) -> None:
    """Although their exceptions are kept."""
    threads, kept = threading.active_count(), []
    for error in ERRORS:
        with pytest.raises(type(error)) as caught:
            arithmetic(load=Failing("vae_decoder", error))
        kept.append(caught)
    assert len(kept) == 5
    assert threading.active_count() == threads


def test_failed_loads_leave_no_engine_and_close_the_device(arithmetic: Callable[..., Animator]) -> None:
    engines: list[weakref.ref[Any]] = []

    def load(bundle: Any, graph: str, device: Device) -> ArithmeticEngine:
        if graph == "vae_decoder":
            raise DeviceError("no")
        engine = ArithmeticEngine(bundle, graph, device)
        engines.append(weakref.ref(engine))
        return engine

    class Stubborn(CPUDevice):
        def close(self) -> None:
            super().close()
            raise DeviceError("cannot close")

    with pytest.raises(DeviceError, match=r"^no$") as kept:  # not the error of closing
        arithmetic(load=load, device=Stubborn())
    assert len(engines) == 2  # those of poses and timesteps
    assert not [engine for engine in engines if engine() is not None]
    assert kept


def test_failed_loads_free_the_gpu(small_bundle: Path, tmp_path: Path) -> None:
    plans = tensorrt_bundle(small_bundle, tmp_path / "bundle")
    with installed(1) as gpu:
        kept = []
        for _ in range(5):
            gpu.faults["Runtime.deserialize_cuda_engine"] = "the plan is damaged"
            with pytest.raises(DeviceError, match="cannot load the plan") as caught:
                Animator.load(plans)
            kept.append(caught)
            gpu.faults.clear()
        assert gpu.memory.used_bytes == 0
        assert len(kept) == 5


def test_the_caller_s_exception_is_not_replaced(
    arithmetic: Callable[..., Animator], caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(CPUDevice):
        def close(self) -> None:
            super().close()
            raise RuntimeError("cannot\nclose")

    with pytest.raises(ZeroDivisionError), arithmetic(device=Stubborn()):
        _ = 1 // 0
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "the animator could not be closed: cannot close",
    )
    with pytest.raises(RuntimeError, match="cannot\nclose"), arithmetic(device=Stubborn()):
        pass


# Bundles that are replaced


def rebuilt(path: Path) -> None:
    """Replace a bundle by a valid one with other weights, as `build` does."""
    other = shutil.copytree(path, path.with_name("new"))
    with (other / "graphs" / "weights.bin").open("r+b") as file:
        file.seek(4000)
        file.write(np.full(100, 0.125, np.float32).tobytes())
    manifest = open_bundle(path).manifest
    (other / MANIFEST).unlink()
    seal(other, replace(manifest, files={}))
    path.rename(path.with_name("old"))
    other.rename(path)


REPLACED = "was replaced or changed after it was opened"


def test_a_bundle_replaced_after_loading(copied: Path) -> None:
    """Clips that need nothing more from it go on; others are refused, and never made with other weights."""
    with Animator(open_bundle(copied), load=ArithmeticEngine) as animator:
        truth = render(animator)
        rebuilt(copied)
        assert np.array_equal(render(animator), truth)
        for _ in range(2):
            with pytest.raises(BundleCorrupt, match=REPLACED):
                render(animator, guidance_scale=1.0)
        assert "denoising_unet_conditional" not in animator.session.engines
    with Animator(open_bundle(copied), load=ArithmeticEngine) as animator:
        render(animator, guidance_scale=1.0)


def test_a_bundle_replaced_before_loading(copied: Path) -> None:
    bundle = open_bundle(copied)
    rebuilt(copied)
    with pytest.raises(BundleCorrupt, match=REPLACED):
        Animator(bundle, load=ArithmeticEngine)


@pytest.mark.parametrize("graph", ["vae_encoder", "vae_decoder", "denoising_unet"])
def test_a_bundle_replaced_while_an_engine_loads(copied: Path, graph: str) -> None:
    def load(bundle: Any, name: str, device: Device) -> ArithmeticEngine:
        if name == graph:
            rebuilt(copied)
        return ArithmeticEngine(bundle, name, device)

    threads = threading.active_count()
    with pytest.raises(BundleCorrupt, match=REPLACED), Animator(open_bundle(copied), load=load) as animator:
        render(animator)
    assert threading.active_count() == threads


def test_a_bundle_copied_over_itself_is_the_same(copied: Path) -> None:
    """Its files are other files with the same bytes."""
    with Animator(open_bundle(copied), load=ArithmeticEngine) as animator:
        shutil.copytree(copied, copied.with_name("new"))
        shutil.rmtree(copied)
        copied.with_name("new").rename(copied)
        render(animator, guidance_scale=1.0)
