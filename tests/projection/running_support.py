"""Logs and read models that runners of this process and of others share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import projection_worker as bank
import pytest

from leftfold.projection import catalog, pacing, running


class Places:
    """Where the log and the read models of a test are, by URL."""

    def __init__(self, log: str, views: str) -> None:
        self.log = log
        self.views = views


def places_on(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """`sqlite`, `postgresql`, or the engines of the log and of the views: `sqlite+postgresql`."""

    def url(engine: str, name: str) -> str:
        if engine == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db"
        return str(request.getfixturevalue("server").new_log())

    log, _, views = engine.partition("+")
    return Places(url(log, "log"), url(views or log, "views"))


def shorten(monkeypatch: pytest.MonkeyPatch, *, lease_s: float = 30.0, batch: int = 2_000) -> None:
    """Let leases of this process be short, and batches small."""
    for module in (catalog, running):
        monkeypatch.setattr(module, "LEASE_S", lease_s)
    monkeypatch.setattr(pacing, "BATCH_EVENTS_MAX", batch)
    monkeypatch.setattr(pacing, "BATCH_EVENTS_MIN", min(batch, pacing.BATCH_EVENTS_MIN))


def threads_of_runners() -> list[str]:
    return [
        each.name
        for each in threading.enumerate()
        if each.name.startswith("leftfold-") and each.name != "leftfold-news"
    ]


class Told(logging.Handler):
    """What the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def has(self, text: str) -> bool:
        return any(text in each for each in self.lines)


eventually: Callable[..., Any] = bank.eventually
