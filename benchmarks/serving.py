"""A server under load, measured from outside its process, and what the service adds to a clip (own_cost.py).

Clips arrive at random times (Poisson) at several rates. Each is uploaded, watched through its events,
received as live video while it is made, and downloaded, as the page of the server does. Its time counts from
its arrival, even if the client is late. A clip that the server refuses with 429 is not asked for again.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from ..engines.bundle import open_bundle
from ..errors import ConfigError
from ..runtime.animator import Animator
from ..runtime.marks.marks import MarkOptions
from ..runtime.service.service import Service
from .instruments import host
from .instruments.server import serving
from .instruments.video_client import Form, Seen, VideoClient
from .own_cost import HTTP, Clips, Turns, cancel_cost, own_cost
from .reporting.result import JSON, Result, Samples, describe_engines
from .reporting.samples import summary
from .workload import Workload

LOADS = (0.5, 0.8, 1.2)  # default arrival rates, in clips per time of a clip alone
PATIENCE = 3.0  # default deadline, in times of a clip alone
READY_S = 600.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedDemand:
    """What is asked of the server.

    rates: clips per second; none for LOADS. deadline_s: None for PATIENCE. clips: at each rate. rounds:
    turns of own_cost. cancelled: jobs that are cancelled while they are made. queue: places in the queue of
    the server that is started.
    """

    rates: Sequence[float] = ()
    deadline_s: float | None = None
    clips: int = 20
    rounds: int = 10
    cancelled: int = 10
    queue: int = 8


def bench_serve(
    bundle: Path, workload: Workload, demand: ServedDemand, url: str, token: str, progress: Progress
) -> Result:
    """Measure the server at `url`, which must serve this bundle, or one that is started for that."""
    warnings = host.busy_warnings()
    opened = open_bundle(bundle)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="animate-rt-bench-")))
        clips, server = Clips(workload, folder), None
        if not url:
            progress("start a server")
            tick = lambda: progress("start a server")  # noqa: E731
            url, server = stack.enter_context(serving(bundle, folder, demand.queue, READY_S, tick))
        client = VideoClient(url, token)
        check_size(client, workload)
        unmarked = MarkOptions(watermark=False, metadata=False)
        own = Service(bundle, spool=folder / "own", marks=unmarked)
        with own as service, Animator(opened) as animator:
            service.ready.wait()
            cost, samples = own_cost(Turns(animator, service, client, clips, server), demand.rounds, progress)
            cancel = cancel_cost(service, opened, clips, demand.cancelled, progress)
        unloaded_s = statistics.median(samples[HTTP])
        deadline_s = demand.deadline_s or PATIENCE * unloaded_s
        rates = demand.rates or [load / unloaded_s for load in LOADS]
        rows = []
        for number, rate in enumerate(rates, start=1):
            forms = [clips.form(clip) for clip in range(demand.clips)]
            seen, seconds = arriving(client, forms, rate, number, progress)
            rows.append(rate_figures(rate, deadline_s, seen, seconds))
            samples |= rate_samples(number, seen)
        memory = host.peak_bytes(server) if server else None
    if not cost["identical"]:
        warnings.append("the ways of making the same clip gave different bytes")
    return Result(
        kind="serve",
        workload={**asdict(demand), **workload.as_json()},
        engines=describe_engines(opened),
        results={
            "deadline_s": deadline_s,
            "rates": rows,
            "own_cost": cost,
            "cancel": {name: cancel[name] for name in ("seconds", "unet_s")},
            "server_peak_bytes": memory,
        },
        samples=samples | {"cancel": cancel["samples"]},
        warnings=warnings,
    )


def check_size(client: VideoClient, workload: Workload) -> None:
    """Raise ConfigError unless the server serves bundles of the workload's size."""
    size = f"{workload.bucket.width}x{workload.bucket.height}"
    try:
        found = [model["id"] for model in client.get("/v1/models")["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"url: expected a server of animate-rt, found {error}") from error
    if size not in found:
        raise ConfigError(f"url: expected a server of {size}, found one of {', '.join(found)}")


def arriving(
    client: VideoClient, forms: list[Form], rate: float, seed: int, progress: Progress
) -> tuple[list[Seen], float]:
    """Let clips arrive. Returns what became of each, and the seconds until the last one has ended."""
    began = perf_counter()
    arrivals = began + np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(forms)))
    with ThreadPoolExecutor(len(forms)) as pool:
        pending = []
        for number, (form, arrival) in enumerate(zip(forms, arrivals.tolist(), strict=True), start=1):
            sleep(max(0.0, arrival - perf_counter()))
            progress(f"{rate:.3g} clips/s: {number}/{len(forms)}")
            pending.append(pool.submit(client.watch, form, arrival, stream=True))
        seen = [one.result() for one in pending]
    return seen, perf_counter() - began


def rate_figures(rate: float, deadline_s: float, seen: list[Seen], seconds: float) -> JSON:
    """Figures of one rate. Goodput counts the clips that were there before their deadline, per second."""
    made = [one for one in seen if one.state == "completed"]
    in_time = sum((one.ended_s or 0.0) <= deadline_s for one in made)
    return {
        "rate": rate,
        "clips": len(seen),
        "states": dict(Counter(one.state for one in seen)),
        "in_time": in_time,
        "goodput": in_time / seconds,
        "queue_s": figures([one.began_s for one in made]),
        "latency_s": figures([one.ended_s for one in made]),
        "first_fragment_s": figures([one.first_fragment_s for one in made]),
        "stages": mean_stages(made),
    }


def figures(values: Sequence[float | None]) -> JSON | None:
    known = [value for value in values if value is not None]
    return summary(known) if known else None


def mean_stages(made: list[Seen]) -> JSON:
    """Mean seconds by stage, from the Video objects."""
    durations = [one.video["stage_durations"] for one in made if one.video]
    names = dict.fromkeys(name for stages in durations for name in stages)
    return {name: sum(stages.get(name, 0.0) for stages in durations) / len(durations) for name in names}


def rate_samples(number: int, seen: list[Seen]) -> Samples:
    made = [one for one in seen if one.state == "completed"]
    named = {
        "latency": [one.ended_s for one in made],
        "queue": [one.began_s for one in made],
        "first_fragment": [one.first_fragment_s for one in made],
    }
    return {
        f"{name} at rate {number}": [value for value in values if value is not None]
        for name, values in named.items()
    }
