"""The command line of the benchmarks: `animate-rt bench ...`.

Tables go to standard error, and the last line of standard output is the result as JSON. Only `report` prints
its tables to standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import Commands, Console, Run, add_command, need_packages
from ..errors import ConfigError
from ..runtime.clip.options import add_options, options_of
from .arguments import count, positive
from .reporting import commands as reporting

if TYPE_CHECKING:
    from .reporting.result import Result
    from .workload import Workload

SIZES = ("small", "mid", "sd15-cpu", "full-512", "full-768")
SCENARIOS = ("single-stream", "offline", "server")


def add_commands(commands: Commands) -> None:
    purpose = "measure latency and quality, alone or against other runtimes"
    bench = commands.add_parser("bench", help=purpose, description=purpose)
    kinds = bench.add_subparsers(required=True, metavar="WHAT")

    command = add_measurement(
        kinds, engine, "one engine: time of copies and computation, against the machine's peak rates"
    )
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument("--graph", default="denoising_unet", help="engine to measure (default: %(default)s)")
    command.add_argument(
        "--iterations",
        type=count,
        default=30,
        metavar="N",
        help="minimum number of runs (default: %(default)s)",
    )

    command = add_measurement(kinds, clip, "whole clips, from pictures to an mp4, and the time of each stage")
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0], help="(default: %(default)s)")
    command.add_argument("--clips", type=count, default=5, metavar="N", help="(default: %(default)s)")
    command.add_argument(
        "--frames", type=count, metavar="N", help="frames per clip (default: the bundle's window)"
    )
    add_options(command, "steps", "guidance_scale", "windows", "order")
    command.add_argument(
        "--rate", type=positive, metavar="R", help="server: clips that arrive per second, on average"
    )
    command.add_argument(
        "--deadline",
        type=positive,
        metavar="S",
        help="server: deadline of a clip, in seconds after its arrival",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoint of the bundle; compares the frames with PyTorch's on the same device "
        "(default: with ONNX Runtime's, on the CPU)",
    )
    command.add_argument(
        "--inference-config", type=Path, metavar="FILE", help="the checkpoint's inference.yaml"
    )

    command = add_measurement(
        kinds, serve, "a server under load, and what the service adds to a clip: clips arrive at random times"
    )
    command.add_argument("bundle", type=Path, help="directory made by animate-rt build")
    command.add_argument("--url", default="", help="a running server of this bundle (default: start one)")
    command.add_argument("--token-file", type=Path, metavar="FILE", help="with a token of the running server")
    command.add_argument(
        "--rates",
        type=positive,
        nargs="+",
        default=[],
        metavar="R",
        help="clips that arrive per second, on average (default: 0.5, 0.8 and 1.2 per time of a clip)",
    )
    command.add_argument(
        "--clips", type=count, default=20, metavar="N", help="at each rate (default: %(default)s)"
    )
    command.add_argument(
        "--deadline", type=positive, metavar="S", help="of a clip (default: three times a clip's time)"
    )
    command.add_argument(
        "--queue", type=count, default=8, metavar="N", help="jobs that may wait (default: %(default)s)"
    )
    command.add_argument(
        "--rounds",
        type=count,
        default=10,
        metavar="N",
        help="the same clip by the animator, the service and the server, in turns (default: %(default)s)",
    )
    command.add_argument(
        "--cancelled", type=count, default=10, metavar="N", help="jobs to cancel (default: %(default)s)"
    )
    command.add_argument(
        "--frames", type=count, metavar="N", help="frames per clip (default: the bundle's window)"
    )
    add_options(command, "steps", "guidance_scale", "windows")

    command = add_measurement(
        kinds, peers, "ours against PyTorch, torch.compile and ONNX Runtime, interleaved"
    )
    add_size(command, rounds=5)
    command.add_argument(
        "--limit",
        type=positive,
        default=600,
        metavar="S",
        help="time limit for loading a peer, and for each of its clips (default: %(default)s)",
    )
    command.add_argument("--steps", type=count, help="steps per clip (default: the size's)")
    command.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PEER",
        help="leave out this peer, such as torch.compile; repeatable",
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="for a GPU that is available only for minutes: writes no files, draws random weights in each "
        "process, runs our graphs as PyTorch modules instead of a bundle; fp32 renders one clip, the truth",
    )

    command = add_measurement(kinds, ablate, "the gain from each rewrite and each feature of the runtime")
    add_size(command, rounds=3)
    command.add_argument("--precision", choices=("fp32", "bf16"), help="OpenVINO's precision (default: fp32)")

    command = add_measurement(kinds, quality, "PSNR, SSIM, LPIPS and flicker of videos or folders of videos")
    command.add_argument("ours", type=Path, metavar="VIDEO|DIR", help="the frames to rate")
    command.add_argument("truth", type=Path, metavar="VIDEO|DIR", help="the true frames")
    command.add_argument(
        "--lpips",
        type=Path,
        metavar="DIR",
        help="folder with the public weights of LPIPS, alexnet-owt-*.pth and alex.pth (default: no LPIPS)",
    )

    reporting.add_commands(kinds)


def engine(options: argparse.Namespace, console: Console) -> None:
    need_packages("bench", "onnx", "onnxruntime")
    from .engine import bench_engine

    finish(bench_engine(options.bundle, options.graph, options.iterations, console.step), options, console)


def workload_of(options: argparse.Namespace) -> Workload:
    """Clips for the bundle of a command."""
    from ..engines.bundle import open_bundle
    from .workload import Workload

    manifest = open_bundle(options.bundle).manifest
    return Workload(
        bucket=manifest.bucket,
        frames=options.frames or manifest.bucket.window,
        options=options_of(vars(options)).with_defaults(manifest),
    )


def clip(options: argparse.Namespace, console: Console) -> None:
    need_packages("bench", "torch" if options.checkpoint else "onnxruntime")
    from .clip import Demand, bench_clip, onnx_runtime, pytorch

    demand = Demand(
        scenario=options.scenario, clips=options.clips, rate=options.rate, deadline_s=options.deadline
    )
    given = options.checkpoint
    oracle = pytorch(given, options.inference_config) if given else onnx_runtime()
    finish(bench_clip(options.bundle, workload_of(options), demand, oracle, console.step), options, console)


def serve(options: argparse.Namespace, console: Console) -> None:
    need_packages("serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client")
    from ..runtime.service.http.auth import read_tokens
    from .serving import ServedDemand, bench_serve

    token = read_tokens(options.token_file)[0] if options.token_file else ""
    demand = ServedDemand(
        rates=options.rates,
        deadline_s=options.deadline,
        clips=options.clips,
        rounds=options.rounds,
        cancelled=options.cancelled,
        queue=options.queue,
    )
    work = workload_of(options)
    finish(bench_serve(options.bundle, work, demand, options.url, token, console.step), options, console)


def peers(options: argparse.Namespace, console: Console) -> None:
    need_packages("bench", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "yaml")
    from ..engines.cpu.compiled_cache import LIMIT
    from .peers import bench_peers
    from .renderers import drawn, from_files
    from .sizes import RECORDED_CHECKPOINT, bundles_of, checkpoint_of
    from .sizes import SIZES as KNOWN

    os.environ[LIMIT] = "0"  # the time of loading is that of a first load
    size = KNOWN[options.size]
    workload = size.workload.with_options(steps=options.steps) if options.steps else size.workload
    with folder_of(options) as folder:
        if options.quick:
            given = size.checkpoint
            networks = partial(drawn, given) if given else partial(from_files, *RECORDED_CHECKPOINT)
        else:
            networks = partial(from_files, *checkpoint_of(options.size, folder, console.step))
        result = bench_peers(
            networks,
            [] if options.quick else bundles_of(options.size, folder, console.step),
            workload,
            options.rounds,
            options.limit,
            console.step,
            without=options.without,
            quick=options.quick,
            alone=size.alone,
        )
    finish(result, options, console)


def ablate(options: argparse.Namespace, console: Console) -> None:
    need_packages("bench", "torch", "onnx", "onnxscript", "safetensors", "yaml")
    from ..engines.bundle import open_bundle
    from .ablate import bench_ablate
    from .sizes import SIZES as KNOWN
    from .sizes import bundles_of, checkpoint_of

    with folder_of(options) as folder:
        bundles = bundles_of(options.size, folder, console.step)
        found = {open_bundle(path).manifest.precision: path for path in bundles}
        bundle = found.get(options.precision or next(iter(found)))
        if bundle is None:
            raise ConfigError(
                f"precision: expected one of {', '.join(found)} on this machine, found {options.precision}"
            )
        checkpoint, inference_config = checkpoint_of(options.size, folder, console.step)
        workload = KNOWN[options.size].workload
        result = bench_ablate(checkpoint, inference_config, bundle, workload, options.rounds, console.step)
    finish(result, options, console)


def quality(options: argparse.Namespace, console: Console) -> None:
    if options.lpips:
        need_packages("bench", "torch")
    from .quality import bench_quality

    finish(bench_quality(options.ours, options.truth, options.lpips), options, console)


def finish(result: Result, options: argparse.Namespace, console: Console) -> None:
    """Write the result to --output, if given, and print it."""
    from .reporting.tables import text_of

    console.bar.close()
    if options.output:
        result.write(options.output)
    print(text_of(result), file=sys.stderr)
    print(result.line())


def add_measurement(
    kinds: Commands,
    run: Run,
    purpose: str,
) -> argparse.ArgumentParser:
    command = add_command(kinds, run, purpose)
    command.add_argument("--output", type=Path, metavar="OUT.json", help="write the result, samples included")
    return command


def add_size(command: argparse.ArgumentParser, rounds: int) -> None:
    command.add_argument(
        "--size",
        choices=SIZES,
        default=SIZES[0],
        help="size of model and clip; the full sizes are for a GPU (default: %(default)s)",
    )
    command.add_argument("--rounds", type=count, default=rounds, metavar="N", help="(default: %(default)s)")
    command.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep checkpoints and bundles here, and reuse those already made (default: a temporary folder)",
    )


@contextmanager
def folder_of(options: argparse.Namespace) -> Iterator[Path]:
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        yield options.folder
        return
    with tempfile.TemporaryDirectory(prefix="animate-rt-bench-") as folder:
        yield Path(folder)
