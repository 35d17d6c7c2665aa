"""What is measured, and how: subjects take turns, so that a busy machine slows all of them alike.

A *subject* is one way to do the work of a row. A *row* is one workload with its subjects and its
goals. In each round every subject runs one slice, in rotating order; a ratio is the median over the
rounds of the ratios of two slices of the same round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


class Subject:
    """One way to do the work. Files grow from slice to slice; inputs are prepared off the clock."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, directory: Path) -> None:
        """Start it, with its files in `directory`, which the subjects of a row share.

        Leaves nothing running when it fails: `close` is for what was opened.
        """

    def settings(self) -> str:
        """What the engine itself says about its journal and its durability."""
        return ""

    def prepare(self, count: int) -> Any:
        """The input of a slice of `count` events, made off the clock."""
        return count

    def run(self, prepared: Any) -> None:
        """The work of a slice."""
        raise NotImplementedError

    def measure(self, count: int) -> float:
        """Run a slice of `count` events: the events per second."""
        prepared = self.prepare(count)
        # Nobody's garbage collector should pay for inputs that we made beforehand.
        gc.collect()
        gc.freeze()
        start = time.perf_counter()
        self.run(prepared)
        elapsed_s = time.perf_counter() - start
        gc.unfreeze()
        return count / elapsed_s

    def close(self) -> None:
        """Stop it. Its files are deleted afterwards."""


@dataclass(frozen=True)
class Goal:
    """What the ratio of two subjects of a row should be: at least, at most, or just known."""

    subject: str
    against: str
    bound: float | None = None
    at_least: bool = True

    def is_met(self, ratio: float) -> bool | None:
        if self.bound is None:
            return None
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        if self.bound is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One workload. `events` is the length of a slice."""

    name: str
    title: str
    subjects: Sequence[Subject]
    events: int
    goals: Sequence[Goal]
    unit: str = "events/s"
    rounds: int | None = None
    """How many rounds it takes, where that is not the choice of whoever runs it."""


@dataclass
class Result:
    """What was measured of a row: for each subject one number a round."""

    row: Row
    rounds: dict[str, list[float]]
    settings: dict[str, str] = field(default_factory=dict)

    def median(self, subject: str) -> float:
        return median(self.rounds[subject])

    def ratios(self, goal: Goal) -> list[float]:
        """The ratio of the goal's subjects in each round, smallest first."""
        pairs = zip(self.rounds[goal.subject], self.rounds[goal.against], strict=True)
        return sorted(ours / theirs for ours, theirs in pairs)


def run_row(row: Row, directory: Path, rounds: int, say: Callable[[str], None]) -> Result:
    """Measure a row: one round to warm up, which does not count unless it is the only one."""
    rounds = row.rounds or rounds
    result = Result(row, {subject.name: [] for subject in row.subjects})
    with ExitStack() as closing:
        for subject in row.subjects:
            subject.open(directory)
            closing.callback(subject.close)
            result.settings[subject.name] = subject.settings()
        for number in range(0 if rounds > 1 else 1, rounds + 1):
            say(f"{row.name}: {row.title}: round {number} of {rounds}")
            turn = number % len(row.subjects)
            for subject in (*row.subjects[turn:], *row.subjects[:turn]):
                measured = subject.measure(row.events)
                if number:
                    result.rounds[subject.name].append(measured)
    return result
