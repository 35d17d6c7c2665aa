"""How much at a time, and how fast: decisions without a clock."""

from __future__ import annotations

from typing import Any

import pytest

from leftfold.projection import pacing
from leftfold.projection.catalog import Build
from leftfold.projection.pacing import BATCH_EVENTS_MAX, BATCH_EVENTS_MIN, Pace


class Recorded:
    def __init__(self, size: int = 100) -> None:
        self.data = b"x" * size


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


def build(state: Any = "building", rate_max: int = 0) -> Build:
    return Build(1, "totals", 1, "", "", state, 1, rate_max, 0, 0)


def pause_after(pace: Pace, clock: Clock, of: Build, *, took_s: float, size: int = 100) -> float:
    """How long to pause after a full batch."""
    page: Any = [Recorded(size)] * pace.limit
    pace.begin()
    clock.now_s += took_s
    return pace.end(of, page, failed=False)


def test_batches_grow_while_they_are_fast_and_shrink_when_they_are_slow(clock: Clock) -> None:
    pace = Pace()
    for _ in range(20):
        assert pause_after(pace, clock, build(), took_s=0.01) == 0
    assert pace.limit == BATCH_EVENTS_MAX
    for _ in range(20):
        pause_after(pace, clock, build(), took_s=10)
    assert pace.limit == BATCH_EVENTS_MIN


def test_large_events_make_small_batches(clock: Clock) -> None:
    pace = Pace()
    pause_after(pace, clock, build(), took_s=0.01, size=1_000_000)
    assert pace.limit * 1_000_000 <= pacing.BATCH_BYTES


def test_a_build_is_throttled_to_its_rate(clock: Clock) -> None:
    pace, throttled = Pace(), build(rate_max=40)
    events = 0
    for _ in range(50):
        events += pace.limit
        pause_s = pause_after(pace, clock, throttled, took_s=0.05)
        clock.now_s += pause_s
    assert events / clock.now_s == pytest.approx(40, rel=0.01)
    # No pause is so long that what serves by then would lag.
    assert pause_s <= 1


def test_what_serves_is_not_throttled(clock: Clock) -> None:
    assert pause_after(Pace(), clock, build("serving", rate_max=1), took_s=0.01) == 0
