"""How far a long command is: a bar on stderr, where that is a terminal; and rates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from leftfold.event import RecordedEvent

STEP_EVENTS = 1000
"""Events between two looks at the bar."""


class Bar:
    """A bar that knows where it ends. It shows the number of events and their rate."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._began = time.monotonic()

    def to(self, completed: int, count: int, what: str = "events") -> None:
        """Move the bar to `completed` of its total, after `count` events or the like."""
        speed = rate(count, time.monotonic() - self._began)
        note = f"{count:,} {what}, {speed:,.0f}/s"
        self._show(completed, note)

    def pages(self, left: int, total: int) -> None:
        """Move the bar of a copy."""
        note = f"{total - left:,} of {total:,} pages"
        self._show(total - left, note, total)

    def _show(self, completed: int, note: str, total: int | None = None) -> None:
        if self._progress is None:
            return
        self._progress.update(self._progress.task_ids[0], completed=completed, note=note)
        if total is not None:
            self._progress.update(self._progress.task_ids[0], total=total)

    def along(self, events: Iterable[RecordedEvent[Any]]) -> Iterator[RecordedEvent[Any]]:
        """The events, while the bar follows their positions."""
        for count, event in enumerate(events, 1):
            if count % STEP_EVENTS == 0:
                self.to(event.position, count)
            yield event


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """A bar that is there inside the `with`. Off a terminal there is nothing to see."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield Bar(None)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=total, note="")
        yield Bar(progress)


class Timer:
    """How long something took, in seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since this was made, to the millisecond."""
        return round(time.monotonic() - self._began, 3)

    def rate(self, count: int) -> int:
        """Events per second, rounded."""
        return round(rate(count, time.monotonic() - self._began))


def rate(count: int, seconds: float) -> float:
    """How many per second; 0 where no time has passed."""
    return count / seconds if seconds > 0 else 0.0
