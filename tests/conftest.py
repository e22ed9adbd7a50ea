"""Fixtures: recorded cases of the public implementation, bundles built from them once per run, devices."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from animate_rt import Animator
from animate_rt.engines.bundle import Bundle, open_bundle
from animate_rt.engines.contract import ShapeBucket
from animate_rt.engines.cpu.compiled_cache import LIMIT
from animate_rt.engines.cpu.device import CPUDevice
from animate_rt.engines.cuda.device import CUDADevice
from animate_rt.engines.runner import Runner
from animate_rt.runtime.poses.models import MEDIAPIPE
from numpy.typing import NDArray

from .arithmetic import ArithmeticEngine
from .fetched import PHOTOGRAPHS, fetched
from .fixed_cost import hollow_bundle
from .program import Program
from .sharing import alone, compiled_once, one_thread_each, shared_folder
from .standin import GPU, installed

if TYPE_CHECKING:
    from .serving import Form

DATA = Path(__file__).parent / "data"
LONGEST = (
    *("test_animator.py", "test_tensorrt.py", "test_cli.py", "test_schedules.py"),
    *("test_faults_video_times.py", "test_faults_partial_clips.py", "test_faults_races.py"),
    *("test_bench_peers.py", "test_caching.py", "test_cuda_clips.py", "test_bench_commands.py"),
)


@dataclass(frozen=True)
class Case:
    """One recorded run: inputs, options and the tensors between networks (tests/data/README.md)."""

    path: Path
    width: int
    height: int
    frames: int
    window: int
    overlap: int
    steps: int
    guidance_scale: float
    io: dict[str, NDArray[Any]]
    base: Path | None = None  # a checkpoint with the networks that this one lacks

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def inference_config(self) -> Path:
        return self.path / "inference.yaml"

    @property
    def reference(self) -> Path:
        return self.path / "reference.png"

    @property
    def pose(self) -> Any:
        """The pose frames, or those of each track."""
        guidance = self.path / "guidance"
        return {path.name: path for path in guidance.iterdir()} if guidance.is_dir() else self.path / "pose"

    @property
    def initial_noise(self) -> Path:
        return self.path / "initial_noise.npy"

    @property
    def build_options(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "height": self.height,
            "window": self.window,
            "inference_config": self.inference_config,
            **({"base": self.base} if self.base else {}),
        }

    @property
    def animate_options(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "overlap": self.overlap,
            "initial_noise": self.initial_noise,
        }


def load_case(path: Path, base: Path | None = None) -> Case:
    from safetensors.numpy import load_file

    case = json.loads((path / "case.json").read_text())
    return Case(
        path=path,
        width=case["width"],
        height=case["height"],
        frames=case["frames"],
        window=case["context_frames"],
        overlap=case["context_overlap"],
        steps=case["steps"],
        guidance_scale=case["guidance"],
        io=load_file(path / "io.safetensors"),
        base=base,
    )


@pytest.fixture(scope="session")
def small() -> Case:
    """One layer per block, several overlapping windows."""
    return load_case(DATA / "small")


@pytest.fixture(scope="session")
def sdlike(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two layers per block as in SD 1.5, one window. Its weights are drawn again."""
    return load_case(drawn("sdlike", tmp_path_factory))


@pytest.fixture(scope="session")
def champ(small: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Champ, driven by a depth map and a skeleton. Its VAE and its image encoder are those of `small`."""
    return load_case(drawn("champ-two", tmp_path_factory), small.checkpoint)


def drawn(name: str, factory: pytest.TempPathFactory) -> Path:
    """A recorded case whose weights are drawn again, once per run of the suite."""
    from .drawn_weights import with_weights

    folder = shared_folder(factory) / name
    with alone(folder):
        if not folder.is_dir():
            with_weights(DATA / name, folder)
    return folder


@pytest.fixture(scope="session")
def run_engine() -> Any:
    """`run_engine(engine, **inputs)` runs an engine once on a CPU stream and returns its outputs by name."""
    device = CPUDevice()
    return lambda engine, **inputs: Runner(engine, device, "test")(inputs)


@pytest.fixture(scope="session", params=["small", "sdlike"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def checkpoints() -> dict[Path, Any]:
    return {}


@pytest.fixture(scope="session")
def checkpoint(case: Case, checkpoints: dict[Path, Any]) -> Any:
    """The case's networks, loaded once."""
    from animate_rt.export import load_checkpoint

    if case.path not in checkpoints:
        checkpoints[case.path] = load_checkpoint(case.checkpoint, case.inference_config)
    return checkpoints[case.path]


def pytest_configure() -> None:
    one_thread_each()
    os.environ[LIMIT] = "0"  # nothing that an earlier run compiled


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one of them at the end.

    The first three export different checkpoints, so that neither process waits for the other's.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def compiled_engines() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`bundles(case)`: the case's OpenVINO float32 bundle, built by the command once per run of the suite."""
    from animate_rt.__main__ import main

    folder = shared_folder(tmp_path_factory)

    def get(case: Case) -> Path:
        path = folder / f"bundle-{case.path.name}"
        with alone(path):
            if not path.is_dir():
                options = {name.replace("_", "-"): value for name, value in case.build_options.items()}
                named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
                assert main(["build", str(case.checkpoint), str(path), *named]) == 0
        return path

    return get


@pytest.fixture(scope="session")
def bundle(case: Case, bundles: Any) -> Path:
    path: Path = bundles(case)
    return path


@pytest.fixture(scope="session")
def small_bundle(small: Case, bundles: Any) -> Path:
    path: Path = bundles(small)
    return path


@pytest.fixture
def copied(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle of `small`, which a test may change."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def weightless(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the size of `small` without weights."""
    size = ShapeBucket(width=64, height=96, window=6)
    return open_bundle(hollow_bundle(tmp_path_factory.mktemp("weightless") / "bundle", size))


@pytest.fixture
def arithmetic(weightless: Bundle) -> Callable[..., Animator]:
    """`arithmetic(**options)`: an animator with the engines of arithmetic.py."""
    return lambda **options: Animator(weightless, **{"load": ArithmeticEngine} | options)


@pytest.fixture(scope="session")
def mediapipe_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MediaPipe's models, fetched once. Skips where the package index is out of reach."""
    return fetched(MEDIAPIPE, tmp_path_factory)


@pytest.fixture(scope="session")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """NASA's portrait of Eileen Collins, in the public domain, 512x512: from scikit-image's package."""
    from PIL import Image

    path = fetched(PHOTOGRAPHS, tmp_path_factory) / PHOTOGRAPHS.folder / "astronaut.png"
    return Image.open(path).convert("RGB")


@pytest.fixture(params=[0, 1, 2, 3])
def gpu(request: pytest.FixtureRequest) -> Iterator[GPU]:
    """The stand-in GPU; the seeds differ in when and in which order streams run."""
    with installed(request.param) as gpu:
        yield gpu


@pytest.fixture
def device(gpu: GPU) -> Iterator[CUDADevice]:
    device = CUDADevice(timing=True)
    yield device
    device.close()
    assert gpu.memory.used_bytes == gpu.memory.reserved_bytes == 0
    assert not [memory for memory in gpu.memory.allocations.values() if memory.live and memory.kind == "host"]


@pytest.fixture
def program(gpu: GPU) -> Program:
    return Program(gpu)


@pytest.fixture(scope="module")
def form(small: Case, tmp_path_factory: pytest.TempPathFactory) -> Form:
    """The small case as a form that clients of a server send."""
    from .serving import Form

    return Form(small, tmp_path_factory.mktemp("form"))
