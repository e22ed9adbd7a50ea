"""Results as tables, which render as plain text, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from ..instruments.timeline import RESIDUAL, STAGES
from .compare import Change
from .result import JSON, Result

Row = tuple[str, ...]
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: Row
    rows: list[Row]

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, *self.rows]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def markdown(self) -> str:
        rule = "|---" * len(self.head) + "|"
        body = [f"| {' | '.join(line)} |" for line in (self.head, *self.rows)]
        return "\n".join([body[0], rule, *body[1:]])

    def html(self) -> str:
        def line(cells: Row, tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join(line(row, "td") for row in self.rows)
        return f"<table>{line(self.head, 'th')}{rows}</table>"


def tables_of(result: Result) -> list[Table]:
    return TABLES[result.kind](result)


def text_of(result: Result) -> str:
    """The result's tables and warnings as text."""
    tables = "\n\n".join(f"{table.title}\n{table.text()}" for table in tables_of(result))
    return "\n".join([tables, *(f"warning: {warning}" for warning in result.warnings)])


def machine(result: Result) -> str:
    """The machine, commit and date of a result, in one line."""
    host, run = result.host, result.run
    gpu = f", {host['gpu']['name']}" if host["gpu"] else ""
    return f"{host['cpu']}, {host['cores']} cores{gpu}; commit {run['commit']}, {run['time'][:10]}"


def engine_tables(result: Result) -> list[Table]:
    results, ceilings = result.results, result.results["ceilings"]
    names = ("n", "min", "mean", "median", "p90", "p95", "p99", "max", "cv")
    rows = [
        (part.replace("_", " "), *figures(times, 1e3, names)) for part, times in results["seconds"].items()
    ]
    error = results["accuracy"]["relative_error"]
    title = (
        f"{result.workload['graph']}, {precision(result)}, milliseconds; loaded in "
        f"{number(results['load_s'], 3)} s; relative error against ONNX Runtime {error:.1e}"
    )
    rates = [
        (
            what,
            f"{results[amount] / 1e9:.4g} {unit}",
            *(f"{rate / 1e9:.4g} {unit}/s" for rate in (results[speed], ceilings[speed])),
            f"{100 * results[speed] / ceilings[speed]:.0f} %",
            number(1e3 * results[amount] / ceilings[speed], 3),
        )
        for what, amount, speed, unit in (
            ("products", "flop", "flops_per_s", "GFLOP"),
            ("bytes", "bytes", "bytes_per_s", "GB"),
        )
    ]
    head = ("", "of a run", "achieved", "a large product or copy", "share", "floor, ms")
    return [
        Table(title, ("", "n", "min", "mean", "median", "p90", "p95", "p99", "max", "CV"), rows),
        Table("Fraction of the machine's peak, measured in the same run", head, rates),
    ]


def clip_tables(result: Result) -> list[Table]:
    results, accuracy = result.results, result.results["accuracy"]
    cells = {
        "scenario": result.workload["scenario"],
        "n": number(results["latency_s"]["n"], 6),
        **{f"{name} s": number(results["latency_s"][name], 4) for name in ("median", "p90", "p99")},
        "first frame s": number(results["first_frame_s"]["median"], 3),
        "frames/s": number(results["frames_per_s"], 3),
        "real-time factor": number(results["real_time_factor"], 3),
    }
    if served := results["server"]:
        cells |= {
            "arriving clips/s": number(served["rate"], 3),
            "deadline s": number(served["deadline_s"], 3),
            "in time": f"{100 * served['in_time']:.0f} %",
            "goodput clips/s": number(served["goodput"], 3),
        }
    cells |= {
        "load s": number(results["load_s"], 3),
        "peak MB": number(scaled(results["memory"]["host_peak"], 1e-6), 4),
        "PSNR dB": decibels(accuracy),
        "SSIM": number(accuracy["ssim"], 5),
    }
    title = f"{precision(result)}, {size(result)}; accuracy is against {accuracy['oracle']}"
    return [Table(title, tuple(cells), [tuple(cells.values())]), stages_table(results["stages"])]


def stages_table(stages: JSON) -> Table:
    total = stages["wall_clock"]

    def line(name: str, seconds: float, own: float | None = None) -> Row:
        return (name, number(own, 3), number(seconds, 3), f"{100 * seconds / total:.1f} %")

    rows = [line(stage, stages["wall"][stage], stages["busy"][stage]) for stage in STAGES]
    rows += [line("sum of the stages", stages["sum"]), line(RESIDUAL, stages["wall"][RESIDUAL])]
    rows += [line("wall clock", total), line("no engine running", stages["outside_engines"])]
    return Table("Where a clip's time goes, seconds", ("stage", "busy", "wall clock", "fraction"), rows)


def serve_tables(result: Result) -> list[Table]:
    results, cancel = result.results, result.results["cancel"]
    peak = number(scaled(results["server_peak_bytes"], 1e-6), 4)
    rates = (
        f"{precision(result)}, {size(result)}; clips arrive at random, deadline "
        f"{number(results['deadline_s'], 3)} s; the server's process took {peak} MB at most"
    )
    stop = cancel["seconds"]
    own = (
        f"The same clip in turns. A cancelled job ended after {number(scaled(stop['median'], 1e3), 3)} ms, "
        f"at most {number(scaled(stop['max'], 1e3), 3)} ms; a run of the UNet takes "
        f"{number(scaled(cancel['unet_s'], 1e3), 3)} ms"
    )
    return [
        Table(rates, RATE_HEAD, [rate_row(row) for row in results["rates"]]),
        stage_means(results["rates"]),
        Table(own, WAY_HEAD, [way_row(name, way) for name, way in results["own_cost"]["ways"].items()]),
    ]


RATE_HEAD = (
    *("clips/s", "clips", "completed", "refused", "in time", "goodput clips/s", "queue p50 s", "queue p90 s"),
    *("end to end p50 s", "end to end p90 s", "first streamed frame p50 s", "p90 s"),
)
WAY_HEAD = ("", "n", "median s", "CV", "ratio (95 %)", "difference ms", "processor ms")


def rate_row(row: JSON) -> Row:
    times = [
        number((row[name] or {}).get(figure), 3)
        for name in ("queue_s", "latency_s", "first_fragment_s")
        for figure in ("median", "p90")
    ]
    states = [str(row["states"].get(state, 0)) for state in ("completed", "refused")]
    rate, goodput = number(row["rate"], 3), number(row["goodput"], 3)
    return (rate, str(row["clips"]), *states, str(row["in_time"]), goodput, *times)


def stage_means(rates: list[JSON]) -> Table:
    stages = list(dict.fromkeys(stage for row in rates for stage in row["stages"]))
    lines = [(number(row["rate"], 3), *(number(row["stages"].get(s), 3) for s in stages)) for row in rates]
    return Table("Mean seconds of a clip by stage", ("clips/s", *stages), lines)


def way_row(name: str, way: JSON) -> Row:
    ratio = way["ratio"]
    return (
        name,
        *figures(way["seconds"], 1, ("n", "median", "cv")),
        f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        f"{1e3 * way['difference_s']:.1f}",
        number(scaled(way["cpu_s"], 1e3), 4),
    )


def peers_tables(result: Result) -> list[Table]:
    rows = []
    for peer in result.results["peers"]:
        speed, accuracy = peer["speedup"], peer["accuracy"]
        faster = f"{speed['ratio']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})" if speed else UNKNOWN
        times = figures(peer["clip_s"] or {}, 1, ("n", "median", "cv"))
        load, peak = number(peer["load_s"], 3), number(scaled(peer["peak_bytes"], 1e-6), 4)
        similar = number(accuracy and accuracy["ssim"], 5)
        rows.append(
            (peer["name"], peer["precision"], *times, faster, decibels(accuracy), similar, load, peak)
        )
    names = ("peer", "precision", "n", "median s", "CV", "times faster (95 %)")
    head = (*names, "PSNR dB", "SSIM", "load s", "peak MB")
    turns = "Clips of one peer after another" if result.results.get("alone") else "Interleaved clips"
    title = f"{turns}, {size(result)}; speed and accuracy are against {result.results['truth']}"
    return [Table(title, head, rows)]


def ablate_tables(result: Result) -> list[Table]:
    rows = []
    for entry in result.results["rows"]:
        worth, whole, without = entry["worth"], entry["with_s"], entry["without_s"]
        rows.append(
            (
                entry["name"],
                entry["measure"],
                *figures(whole, 1e3, ("n", "median")),
                *figures(without, 1e3, ("median",)),
                f"{worth['ratio']:.3f} ({worth['low']:.3f} to {worth['high']:.3f})",
                f"{entry['error']:.0e}" if entry["error"] else "none",
            )
        )
    head = ("what", "measured", "n", "with, ms", "without, ms", "times slower without (95 %)", "difference")
    title = f"One rewrite or feature off at a time, interleaved, {precision(result)}; clips of {size(result)}"
    return [Table(title, head, rows)]


def size(result: Result) -> str:
    work, steps = result.workload, result.workload["steps"]
    return (
        f"{work['width']}x{work['height']}, {work['frames']} frames, "
        f"{len(steps) if isinstance(steps, list | tuple) else steps} steps, "
        f"guidance {work['guidance_scale']}"
    )


def quality_tables(result: Result) -> list[Table]:
    rows = [quality_row(row["name"], row["frames"], row) for row in result.results["rows"]]
    if len(rows) > 1:
        rows.append(quality_row("mean", None, result.results["mean"]))
    head = ("clip", "frames", "PSNR dB", "SSIM", "LPIPS", "flicker")
    return [Table(f"{result.workload['ours']} against {result.workload['truth']}", head, rows)]


def quality_row(name: str, frames: int | None, measures: JSON) -> Row:
    rest = (number(measures[key], 4) for key in ("ssim", "lpips", "flicker"))
    return (name, number(frames, 6), decibels(measures), *rest)


def puppets_tables(result: Result) -> list[Table]:
    work = result.workload
    size, tables = f"{work['size']}x{work['size']}", []
    for table in result.results["tables"]:
        frames = table.get("frames", work["frames"])
        title = f"{table['title']}: {work['scenes']} scenes of {frames} frames, {size}"
        tables.append(puppets_table(title, table["rows"]))
    return tables


def puppets_table(title: str, rows: list[JSON]) -> Table:
    head = ["", "PSNR dB", "character dB", "SSIM", "clothes", "limbs", "flicker"]
    if seen := "sharpness" in rows[0]:  # results of earlier versions lack it
        head += ["sharpness", "features"]
    if soft := "consistency" in rows[0]:
        head += ["open flicker", "consistency"]
    costs = "time_ratio" in rows[0]
    if costs:
        head += ["UNet evaluations", "CPU time" if "cpu_time_ratio" in rows[0] else "time"]
    if compared := any("first_db" in row for row in rows):
        head.append("PSNR to the first, dB")
    lines = []
    for row in rows:
        cells = [row["name"], f"{row['psnr_db']:.2f}", f"{row['character_db']:.2f}", f"{row['ssim']:.3f}"]
        cells += [f"{row['clothes']:.2f}", f"{100 * row['limbs']:.0f} %", f"{row['flicker']:.2f}"]
        if seen:
            cells += [f"{row['sharpness']:.2f}", f"{row['features']:.3f}"]
        if soft:
            cells += [f"{row['open_flicker']:.2f}", f"{row['consistency']:.2f}"]
        if costs:
            cells += [
                number(row["unet_evaluations"], 6),
                f"{row.get('cpu_time_ratio', row['time_ratio']):.2f}",
            ]
        if compared:
            likeness = row.get("first_db")  # none of the first row itself, and of equal frames
            cells.append("" if likeness is None else f"{likeness:.1f}")
        lines.append(tuple(cells))
    return Table(title, tuple(head), lines)


def changes_table(changes: list[Change]) -> Table:
    rows = [
        (
            change.name,
            " / ".join(map(str, change.num_samples)),
            f"{change.ratio.ratio:.3f}",
            f"{change.ratio.low:.3f} to {change.ratio.high:.3f}",
            "REGRESSED" if change.regressed else "",
        )
        for change in changes
    ]
    return Table("After over before", ("samples", "n", "ratio of medians", "95 %", ""), rows)


TABLES = {
    "engine": engine_tables,
    "clip": clip_tables,
    "serve": serve_tables,
    "peers": peers_tables,
    "ablate": ablate_tables,
    "quality": quality_tables,
    "puppets": puppets_tables,
}


def figures(times: JSON, scale: float, names: tuple[str, ...]) -> Row:
    """Formatted values: seconds times `scale`, n as it is, the coefficient of variation in percent."""
    shown = []
    for name in names:
        value = times.get(name)
        if name == "n":
            shown.append(number(value, 6))
        elif name == "cv":
            shown.append(UNKNOWN if value is None else f"{100 * value:.1f} %")
        else:
            shown.append(number(scaled(value, scale), 4))
    return tuple(shown)


def number(value: float | None, digits: int) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def decibels(accuracy: JSON | None) -> str:
    if accuracy is None:
        return UNKNOWN
    return "identical" if accuracy["psnr_db"] is None else f"{accuracy['psnr_db']:.1f}"


def precision(result: Result) -> str:
    found: list[Any] = sorted({f"{engine['backend']} {engine['precision']}" for engine in result.engines})
    return ", ".join(found)
