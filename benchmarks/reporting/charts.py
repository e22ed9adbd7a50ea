"""Charts of results: SVG inside an HTML page, PNG files for the README. Needs matplotlib."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...atomic import atomic
from ..instruments.timeline import RESIDUAL, STAGES
from .result import JSON, OURS, Result
from .samples import summary
from .tables import decibels, precision, size

GREEN, GREY, RED = "#228833", "#9aa0a6", "#ee6677"
COLOURS = ("#4477aa", "#66ccee", GREEN, "#ccbb44", RED, "#aa3377", "#ee9944", "#dddddd")
WIDTH, DPI = 8.0, 150  # inches, PNG pixels per inch
LABEL_ROOM = 0.06  # fraction of the axis that a bar segment needs to hold a number
STYLE = {
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays searchable and can be copied
    "svg.hashsalt": "animate-rt",  # the same result gives the same file
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Chart(NamedTuple):
    """A chart that `draw` draws on matplotlib axes; height in inches."""

    name: str
    height: float
    draw: Callable[[Any], None]


def charts_of(result: Result) -> list[Chart]:
    match result.kind:
        case "peers":
            return [Chart("clips", 0.9 + 0.36 * len(result.samples), partial(draw_peers, result))]
        case "ablate":
            rows = len(result.results["rows"])
            return [Chart("worth", 0.9 + 0.3 * rows, partial(draw_ablation, result))]
        case "clip":
            series = {"latency": "whole clip", "first_frame": "first frame"}
            return [
                Chart("stages", 2.3, partial(draw_stages, result)),
                Chart("latency", 2.6, partial(draw_distribution, result, series)),
            ]
        case "engine":
            series = {"latency": "with copies", "compute": "compute"}
            return [Chart("latency", 2.6, partial(draw_distribution, result, series))]
        case "puppets":
            tables = [table for table in result.results["tables"] if costs_vary(table["rows"])]
            return [Chart("costs", 3.6, partial(draw_costs, tables))] if tables else []
        case _:
            return []


def charts_across(results: Sequence[Result]) -> list[Chart]:
    """Charts that compare several results: throughput of the clips of each size."""
    by_size: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.kind == "clip":
            by_size[size(result)].append(result)
    groups = [clips for clips in by_size.values() if len(clips) > 1]
    return [
        Chart(f"throughput-{index}", 3.0, partial(draw_throughput, clips))
        for index, clips in enumerate(groups, 1)
    ]


def svg(chart: Chart) -> str:
    """The chart as an <svg> element that loads nothing from elsewhere."""
    text = io.StringIO()
    render(chart, text, format="svg", metadata=NO_METADATA)
    document = text.getvalue()
    return document[document.index("<svg") :]


def write_pngs(folder: Path, results: Sequence[tuple[str, Result]]) -> list[Path]:
    """One file for each chart, named after its result."""
    named = [(f"{name}-{chart.name}", chart) for name, result in results for chart in charts_of(result)]
    named += [(chart.name, chart) for chart in charts_across([result for _, result in results])]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, chart in named:
        path = folder / f"{name}.png"
        with atomic(path) as temporary, temporary.open("wb") as file:
            render(chart, file, format="png", dpi=DPI)
        written.append(path)
    return written


def render(chart: Chart, file: Any, **options: Any) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, chart.height), layout="constrained")
        chart.draw(figure.add_subplot())
        figure.savefig(file, **options)


def draw_peers(result: Result, axes: Any) -> None:
    """Medians as bars, every clip as a dot, labelled with median, speed-up and accuracy."""
    peers = [peer for peer in result.results["peers"] if peer["clip_s"]]
    labels = [f"{peer['name']}, {peer['precision']}" for peer in peers]
    medians = [peer["clip_s"]["median"] for peer in peers]
    colours = [GREEN if peer["name"].startswith(OURS) else GREY for peer in peers]
    axes.barh(labels, medians, color=colours, height=0.62)
    samples = [result.samples[f"{peer['name']} {peer['precision']}"] for peer in peers]
    edge = 1.5 * max(medians, default=1.0)  # slower clips are drawn here: an outlier would flatten all bars
    for label, median, seconds, peer in zip(labels, medians, samples, peers, strict=True):
        inside = [value for value in seconds if value <= edge]
        beyond = [edge] * (len(seconds) - len(inside))
        for values, marker in ((inside, "."), (beyond, ">")):
            axes.plot(values, [label] * len(values), marker, color="#222222", markersize=3, alpha=0.6)
        speed = f"{peer['speedup']['ratio']:.2f}x, " if peer["speedup"] else ""
        note = f"{median:.3g} s, {speed}{closeness(peer['accuracy'])}"
        axes.annotate(note, (max([median, *inside]), label), (6, 0), textcoords="offset points", va="center")
    title(axes, "One clip, seconds: median and every sample; PSNR against eager PyTorch in float32")
    horizontal(axes, room=0.3)


def draw_ablation(result: Result, axes: Any) -> None:
    rows = result.results["rows"]
    labels = [f"{row['name']} ({row['measure']})" for row in rows]
    worth, low, high = (
        [100 * (row["worth"][bound] - 1) for row in rows] for bound in ("ratio", "low", "high")
    )
    errors = [
        [w - a for w, a in zip(worth, low, strict=True)],
        [b - w for w, b in zip(worth, high, strict=True)],
    ]
    colours = [GREEN if a > 0 else RED if b < 0 else GREY for a, b in zip(low, high, strict=True)]
    axes.barh(labels, worth, xerr=errors, color=colours, height=0.62, error_kw={"lw": 1, "capsize": 2})
    for label, value, end in zip(labels, worth, high, strict=True):
        axes.annotate(
            f"{value:+.1f} %", (max(end, 0), label), (5, 0), textcoords="offset points", va="center"
        )
    axes.axvline(0, color="#444444", lw=0.8)
    title(axes, "Time added by leaving it out, %: medians, 95 % interval; grey may be chance, red is faster")
    horizontal(axes, room=0.12)


def draw_stages(result: Result, axes: Any) -> None:
    """One bar for the wall clock by stage, one for the stages' own times, which overlap."""
    stages, names = result.results["stages"], (*STAGES, RESIDUAL)
    rows = {"wall clock": stages["wall"], "own time": stages["busy"]}
    most = max(sum(row.values()) for row in rows.values())
    left = dict.fromkeys(rows, 0.0)
    for name, colour in zip(names, COLOURS, strict=True):
        widths = [row.get(name, 0.0) for row in rows.values()]
        percent = 100 * stages["wall"][name] / stages["wall_clock"]
        bar = axes.barh(
            list(rows),
            widths,
            left=list(left.values()),
            color=colour,
            height=0.6,
            label=f"{name} {percent:.1f} %",
        )
        shown = [f"{width:.3g}" if width > LABEL_ROOM * most else "" for width in widths]
        axes.bar_label(bar, shown, label_type="center", fontsize=8)
        left = {row: begin + width for (row, begin), width in zip(left.items(), widths, strict=True)}
    title(axes, f"One clip, seconds by stage: {result.workload['scenario']}, {about(result)}")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)
    horizontal(axes, room=0.02)


def draw_distribution(result: Result, series: dict[str, str], axes: Any) -> None:
    """Each series as the fraction of samples that took at most a given time."""
    scale, unit = unit_of(value for name in series for value in result.samples[name])
    styles = (GREEN, "-"), (COLOURS[0], "--")  # the curves may coincide
    for (name, label), (colour, line) in zip(series.items(), styles, strict=True):
        values = [scale * value for value in result.samples[name]]
        median = summary(values)["median"]
        axes.ecdf(
            values,
            color=colour,
            ls=line,
            lw=1.8,
            label=f"{label}: median {median:.4g} {unit}, n {len(values)}",
        )
    axes.set(ylabel="fraction", ylim=(0, 1.02), xlabel=unit)
    title(axes, f"Fraction of samples that took at most this time: {about(result)}")
    axes.legend(loc="lower right", fontsize=8)


def draw_throughput(clips: Sequence[Result], axes: Any) -> None:
    """Throughput over latency, one point per result; the upper left is best."""
    latencies = [clip.results["latency_s"]["median"] for clip in clips]
    scale, unit = unit_of(latencies)
    for clip, latency in zip(clips, latencies, strict=True):
        point = scale * latency, clip.results["frames_per_s"]
        axes.plot(*point, "o", color=GREEN, markersize=7)
        accuracy = closeness(clip.results["accuracy"])
        label = f"{clip.workload['scenario']}, {clip.engines[0]['precision']}, {accuracy}"
        axes.annotate(label, point, (8, 0), textcoords="offset points", va="center")
    axes.set(xlabel=f"latency of a clip, {unit}, median", ylabel="frames per second")
    axes.set_xlim(0, 1.4 * scale * max(latencies))
    axes.set_ylim(0, 1.15 * max(clip.results["frames_per_s"] for clip in clips))
    title(axes, f"Throughput against latency, {size(clips[0])}")


def costs_vary(rows: list[JSON]) -> bool:
    costs = [row.get("unet_evaluations", 1) for row in rows]
    return max(costs) > 1.5 * min(costs)


def draw_costs(tables: list[JSON], axes: Any) -> None:
    """PSNR over time, one point per row; the upper left is best. All tables have the same first row."""
    for table, colour in zip(tables, COLOURS, strict=False):
        points = [(row["time_ratio"], row["psnr_db"]) for row in table["rows"]]
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=5, label=table["title"])
        for row, point in zip(table["rows"], points, strict=True):
            axes.annotate(
                row["name"], point, (4, 3), textcoords="offset points", fontsize=7, color=colour, rotation=20
            )
    axes.set(xlabel="time of a clip, as a multiple of the default's", ylabel="PSNR, dB", xscale="log")
    axes.legend(loc="lower right", fontsize=8)
    title(axes, "What quality costs: PSNR against the true frames over time")


def about(result: Result) -> str:
    """Backend, precision and accuracy of a result, for a chart's title."""
    accuracy = result.results["accuracy"]
    return f"{precision(result)}, {closeness(accuracy)} against {accuracy['oracle']}"


def closeness(accuracy: JSON | None) -> str:
    if accuracy and "relative_error" in accuracy:
        return f"relative error {accuracy['relative_error']:.0e}"
    return f"{decibels(accuracy)} dB" if accuracy and accuracy["psnr_db"] else decibels(accuracy)


def title(axes: Any, text: str) -> None:
    """A title for the figure: the axes' own would begin to the right of long labels."""
    axes.figure.suptitle(text, x=0.01, ha="left")


def horizontal(axes: Any, room: float) -> None:
    """Order bars from top to bottom, and extend the axis by the fraction `room` for labels on the right."""
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + room * (right - left))


def unit_of(seconds: Iterable[float]) -> tuple[float, str]:
    """A factor to multiply by, and the unit of the product: seconds, or milliseconds if all are below 1 s."""
    return (1.0, "s") if max(seconds) >= 1 else (1e3, "ms")
