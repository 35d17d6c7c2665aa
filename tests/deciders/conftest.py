"""Each test of deciders runs on both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from decider_bank import BANK

import leftfold
from leftfold import EventStore


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/bank.db"


@pytest.fixture
def es(url: str) -> Iterator[EventStore]:
    with leftfold.open(url, BANK) as opened:
        yield opened
