"""Evaluation of measurements: summaries, ratios of medians, and the timeline of a clip."""

from __future__ import annotations

import numpy as np
import pytest
from animate_rt.benchmarks.instruments.timeline import (
    COPIES,
    DECODE,
    ENCODE,
    POSE,
    RESIDUAL,
    STAGE_OF,
    UNET,
    Span,
    attribute,
    breakdown,
    residual_warning,
)
from animate_rt.benchmarks.reporting.samples import ratio_of_medians, steady, summary


def test_percentiles_need_enough_samples() -> None:
    few, many = summary([float(i) for i in range(9)]), summary([float(i) for i in range(101)])
    assert (few["p90"], few["p95"], few["p99"]) == (None, None, None)
    assert (many["p90"], many["p95"], many["p99"]) == (90, 95, 99)
    assert summary([1.0] * 99)["p99"] is None
    assert (few["n"], few["min"], few["median"], few["max"]) == (9, 0, 4, 8)
    assert summary([2.0])["cv"] is None
    assert summary([1.0, 3.0])["cv"] == pytest.approx(2**0.5 / 2)


def test_the_interval_of_a_ratio_separates_change_from_chance() -> None:
    generator = np.random.default_rng(0)
    base, same = (list(generator.normal(1, 0.05, 30)) for _ in range(2))
    slower = [1.2 * value for value in same]
    chance, change = ratio_of_medians(same, base), ratio_of_medians(slower, base)
    assert chance.low < 1 < chance.high
    assert 1.1 < change.low < change.ratio < change.high < 1.3
    assert ratio_of_medians(slower, base) == change  # the resampling is seeded


def test_samples_are_steady_if_the_last_five_are() -> None:
    assert steady([9.0, 1.0, 1.01, 1.0, 0.99, 1.0])
    assert not steady([1.0, 1.0, 1.0, 1.0])
    assert not steady([1.0, 1.0, 1.2, 1.0, 1.0])


def span(stage: str, began: float, ended: float) -> Span:
    return Span(stage, stage, began, ended)


def test_every_instant_is_attributed_once() -> None:
    spans = [
        span(UNET, 1, 5),
        span(DECODE, 4, 6),  # overlaps the UNet for one second
        span(DECODE, 4, 5),  # a second decoding, on another stream
        span(ENCODE, 6, 7),
        span(POSE, -1, 1),  # begins before the clip
        span(COPIES, 9, 12),  # ends after it
    ]
    shares = attribute(spans, 0, 10)
    assert sum(shares.values()) == pytest.approx(10)
    found = {stage: seconds for stage, seconds in shares.items() if seconds}
    assert found == pytest.approx({POSE: 1, UNET: 3.5, DECODE: 1.5, ENCODE: 1, COPIES: 1, RESIDUAL: 2})


def test_stages_that_do_not_add_up_are_reported() -> None:
    whole = breakdown([span(UNET, 0, 9.9), span(DECODE, 5, 9)], 0, 10)
    assert whole["busy"][UNET] == pytest.approx(9.9)
    assert whole["busy"][DECODE] == pytest.approx(4)  # including the time when the UNet was busy too
    assert whole["sum"] == pytest.approx(9.9)
    assert whole["outside_engines"] == pytest.approx(0.1)
    assert residual_warning(whole) is None
    warning = residual_warning(breakdown([span(UNET, 0, 9)], 0, 10))
    assert warning is not None
    assert "90.0 % of the wall clock" in warning


def test_every_operation_of_a_clip_has_a_stage(small_bundle: object, small: object) -> None:
    """The log raises an error for an operation whose name has no stage."""
    from animate_rt import Animator
    from animate_rt.benchmarks.instruments.timeline import Log

    log = Log()
    with Animator.load(small_bundle, observe=log) as animator:  # type: ignore[arg-type]
        pose = np.zeros((7, small.height, small.width, 3), np.uint8)  # type: ignore[attr-defined]
        assert len(list(animator.animate(pose[0], list(pose), steps=2, guidance_scale=2.0))) == 7
        spans = log.take(0.0)
        assert not log.operations
    assert {one.name for one in spans} <= STAGE_OF.keys()
    assert all(one.ended >= one.began for one in spans)
