"""The scenarios of the DCB specification on PostgreSQL. See tests/acceptance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import leftfold

sys.path.append(str(Path(__file__).parents[1] / "acceptance"))
import test_dcb_scenarios as scenarios


@pytest.mark.parametrize("number", range(28))
def test_scenario(number: int, server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    open, url = leftfold.open, server.new_log()
    monkeypatch.setattr(leftfold, "open", lambda _: open(url))
    scenarios.test_scenario(number, "postgresql", tmp_path)
    schema = url.partition("schema=")[2]
    assert server.execute("SELECT to_regnamespace(%s) IS NOT NULL", schema) == [(True,)]
