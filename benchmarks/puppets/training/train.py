"""Train the small model stage by stage; a run that was stopped resumes.

python -m animate_rt.benchmarks.puppets.training.train FOLDER [--workers 2] [--start weights/puppets]

FOLDER receives the drawn pictures (1.7 MB per scene), `log.jsonl`, a checkpoint of the running stage every
three minutes, figures in the log and a picture of held-out scenes (`<stage>.png`: reference, pose, generated,
true) every 15 minutes, the averaged weights of each finished stage (`<stage>.pt`) and at the end the
checkpoint `puppets` in the public layout, and `puppets-few-steps`, which is based on it.
Half of the scenes are soft: their frames depend on the frames before. With `--start` the VAE of that
checkpoint makes the latents, and training goes on from its other weights. `--decoder`, `--frames`,
`--motion`, `--clips` and `--few-steps` make a stage longer or shorter, also in a run that resumes; with 0 it
passes on the weights that it was given.
To repeat a stage, remove its files and those of all later stages. The order is `vae`, `latents`, `decoder`,
`frames`, `motion`, `clips`, `few-steps`.

On a GPU a captured graph computes the gradients of an iteration. On CPUs use one single-threaded process per
core (`--workers`); they average their gradients. Beside other work this is faster than one process with many
threads, which all wait whenever one of them loses its core.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as workers
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ....atomic import atomic
from ....export.networks.vae import VAE
from ....runtime.media.picture import write_png
from .autoencoder import Autoencoder, encoder, finished_vae
from .dataset import SCENES, write_latents, write_pictures
from .decoder import Decoder
from .denoising import Clips, Motion, SingleFrames
from .few_steps import FewSteps
from .model import SmallModel, read_checkpoint, write_checkpoint, write_few_steps
from .stage import Batch, Iteration, Stage, generator, trained_weights

SEED = 0
WARM_UP = 100  # iterations
# Last fraction of a stage, in which the learning rate falls to 0. Before that it is constant, so a stage can
# be made shorter or longer.
COOL_DOWN = 0.25
AVERAGED = 0.997  # decay of the moving average of weights
CHECKPOINT_S, EVALUATION_S = 180.0, 900.0
LOG_EVERY = 25  # iterations
WARM_UP_RUNS = 3  # before a capture, so that libraries have chosen their kernels

CONTINUABLE = Decoder, SingleFrames, Motion, Clips, FewSteps  # the stages whose length may be set

Parameters = Collection[nn.Parameter]


class Run:
    """A running stage: weights, their moving average, optimizer state and the number of iterations done."""

    def __init__(self, stage: Stage, folder: Path, rank: int = 0, size: int = 1):
        self.stage, self.folder, self.rank, self.size = stage, folder, rank, size
        self.pace, self.device = stage.pace, torch.get_default_device().type
        self.trained = {name: p for name, p in stage.network.named_parameters() if p.requires_grad}
        by_fraction: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.trained.items():
            by_fraction.setdefault(stage.rate(name), []).append(parameter)
        groups = [{"params": each, "fraction": fraction} for fraction, each in by_fraction.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.average = copy.deepcopy(stage.network).requires_grad_(False)
        averages = dict(self.average.named_parameters())
        self.averaged = [averages[name] for name in self.trained]
        self.captured: dict[Hashable, Captured] = {}
        self.done = 0
        self.checkpoint = folder / f"{stage.name}-checkpoint.pt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=torch.get_default_device())
            stage.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = state["iteration"]

    def step(self) -> Tensor:
        """Run one iteration; returns its loss, which a GPU may still be computing."""
        progress = self.done / self.pace.iterations
        rate = self.pace.rate * min(1.0, (self.done + 1) / WARM_UP, (1 - progress) / COOL_DOWN)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["fraction"]
        shared = np.random.default_rng([SEED, self.done])
        seeds = np.random.SeedSequence([SEED, self.done, 1 + self.rank]).generate_state(1)
        loss = self.differentiate(self.stage.batch(Iteration(progress, shared, generator(int(seeds[0])))))
        if self.size > 1:
            average_gradients(self.trained.values(), self.size)
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        self.done += 1
        keep = min(AVERAGED, self.done / (self.done + 10))  # lower at first, when few iterations are averaged
        get_ema_multi_avg_fn(keep)(self.averaged, list(self.trained.values()), self.done)
        return loss

    def differentiate(self, batch: Batch) -> Tensor:
        """Compute the gradients of the parameters; returns the loss."""
        if self.device == "cpu":
            self.optimizer.zero_grad()
            return self.backward(batch.form, batch.tensors)
        kind = batch.form, *(tensor.shape for tensor in batch.tensors)
        if kind not in self.captured:
            work = partial(self.backward, batch.form)
            self.captured[kind] = Captured(work, batch.tensors, self.trained.values())
        return self.captured[kind](batch.tensors, self.trained.values())

    def backward(self, form: Hashable, tensors: list[Tensor]) -> Tensor:
        loss = self.stage.loss(form, *tensors)
        loss.backward()
        return loss.detach()

    def save(self) -> None:
        """Write a checkpoint, which replaces the one before when it is complete."""
        state = {
            "network": self.stage.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.done,
        }
        write_state(state, self.checkpoint)

    def evaluate(self) -> None:
        """Evaluate the averaged network, log its figures and write its picture."""
        figures, picture = self.stage.evaluate(self.average)
        write_png(self.folder / f"{self.stage.name}.png", picture)
        self.log(**figures)

    def log(self, **figures: float) -> None:
        line = {"stage": self.stage.name, "iteration": self.done, **figures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")


class Captured:
    """The work of an iteration, captured as a CUDA graph: the host needs longer to launch its thousands of
    small kernels than the GPU to run them."""

    def __init__(self, work: Callable[[list[Tensor]], Tensor], tensors: list[Tensor], trained: Parameters):
        self.inputs = [tensor.clone() for tensor in tensors]
        side, now = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(now)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                clear_gradients(trained)
                work(self.inputs)
        now.wait_stream(side)
        clear_gradients(trained)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = work(self.inputs)
        self.gradients = [parameter.grad for parameter in trained]  # each replay writes these tensors

    def __call__(self, tensors: list[Tensor], trained: Parameters) -> Tensor:
        for target, source in zip(self.inputs, tensors, strict=True):
            target.copy_(source)
        self.graph.replay()
        for parameter, gradient in zip(trained, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.clone()


def clear_gradients(trained: Parameters) -> None:
    for parameter in trained:
        parameter.grad = None


def train(stage: Stage, folder: Path, *, rank: int = 0, size: int = 1, until: int | None = None) -> nn.Module:
    """Train to the end, or to iteration `until`, from the stage's checkpoint if there is one; returns the
    averaged network. With `size` workers, each of them calls this inside one process group."""
    run = Run(stage, folder, rank, size)
    end = run.pace.iterations if until is None else until
    saved = evaluated = logged = time.monotonic()
    worked = time.process_time()
    losses = []
    while run.done < end:
        losses.append(run.step())
        if rank > 0:
            continue
        if run.done % LOG_EVERY == 0:
            seconds = (time.monotonic() - logged) / len(losses)
            cpu_seconds = (time.process_time() - worked) / len(losses)
            loss = float(torch.stack(losses).mean())
            run.log(loss=round(loss, 5), seconds=round(seconds, 3), cpu_seconds=round(cpu_seconds, 3))
            logged, worked, losses = time.monotonic(), time.process_time(), []
        if time.monotonic() - saved > CHECKPOINT_S:
            run.save()
            saved = time.monotonic()
        if time.monotonic() - evaluated > EVALUATION_S:
            run.evaluate()
            evaluated = time.monotonic()
    if rank == 0:
        run.save()
        run.evaluate()
    return run.average


def average_gradients(parameters: Iterable[nn.Parameter], size: int) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    workers.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / size).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def write_state(state: object, path: Path) -> None:
    # One name, so that what a killed run leaves is overwritten.
    with atomic(path, path.with_name(f".{path.name}.partial")) as temporary:
        torch.save(state, temporary)


class Plan(NamedTuple):
    """What a run does differently from the default."""

    start: Path | None = None  # checkpoint to go on from
    iterations: Mapping[str, int] = {}  # by stage


PLAN = Plan()


def work(rank: int, size: int, folder: Path, plan: Plan = PLAN) -> None:
    """Run all stages as one of `size` workers, which differ only in their samples."""
    torch.manual_seed(SEED)  # equal initial weights
    device = device_type()
    if device == "cpu":
        torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{folder.absolute()}/.workers"
        # A long timeout: workers wait while others encode latents, and while worker 0 evaluates.
        workers.init_process_group("gloo", meeting, timedelta(hours=12), rank=rank, world_size=size)
    with torch.device(device):
        run = partial(run_stage, plan, folder, rank, size)
        if plan.start is None:
            run("vae", partial(Autoencoder, folder))
            start, vae = None, finished_vae(folder)
        else:
            start, vae = read_checkpoint(plan.start)
            vae.requires_grad_(False)
        write_latents(folder, encoder(vae), rank, size, partial(wait_for_all, size))
        run("decoder", partial(Decoder, folder, vae))
        vae.load_state_dict(trained_weights(folder, "decoder"))
        vae.requires_grad_(False)
        run("frames", partial(SingleFrames, folder, vae, start))
        for stage in (Motion, Clips, FewSteps):
            run(stage.name, partial(stage, folder, vae))
        if rank == 0:
            write_checkpoints(folder, vae)


def device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def write_checkpoints(folder: Path, vae: VAE) -> None:
    """Write both sets of weights in the public layout, unless they exist."""
    model = SmallModel()
    if not (folder / "puppets").exists():
        model.load_state_dict(trained_weights(folder, "clips"))
        write_checkpoint(folder / "puppets", model, vae, scaling_factor=1.0)
    if not (folder / "puppets-few-steps").exists():
        model.load_state_dict(trained_weights(folder, "few-steps"))
        write_few_steps(folder / "puppets-few-steps", model)


def run_stage(plan: Plan, folder: Path, rank: int, size: int, name: str, make: Callable[[], Stage]) -> None:
    """Train the stage unless its weights exist."""
    if not (folder / f"{name}.pt").exists():
        stage = make()
        stage.pace = stage.pace._replace(iterations=plan.iterations.get(name, stage.pace.iterations))
        trained = train(stage, folder, rank=rank, size=size)
        if rank == 0:
            write_state(trained.state_dict(), folder / f"{name}.pt")
    wait_for_all(size)


def wait_for_all(size: int) -> None:
    if size > 1:
        workers.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1, help="processes that share each batch's work")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from; its latents stay as they are")
    parser.add_argument("--scenes", type=int, default=SCENES[device_type()])
    for stage in CONTINUABLE:
        usual = stage.paces[device_type()].iterations
        parser.add_argument(f"--{stage.name}", type=int, default=usual, help="iterations (%(default)s)")
    options = parser.parse_args()
    iterations = {stage.name: getattr(options, stage.name.replace("-", "_")) for stage in CONTINUABLE}
    plan = Plan(options.start, iterations)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_pictures(options.folder / "drawn", options.scenes)
    (options.folder / ".workers").unlink(missing_ok=True)  # rendezvous file of a run that was killed
    if options.workers == 1:
        work(0, 1, options.folder, plan)
    else:
        spawn(work, (options.workers, options.folder, plan), nprocs=options.workers)


if __name__ == "__main__":
    main()
