"""The writer thread waits for more appends for a moment, and never for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from leftfold.drive import BlockingDriver, run_sync
from leftfold.event import Appended, Event
from leftfold.stores import group

APPENDS = 30_000


@pytest.mark.timeout(120)
def test_who_comes_alone_is_not_let_wait_for_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed waits of a few microseconds are those in which a wait may have been lost."""
    monkeypatch.setattr(group, "GATHER_S", 1e-6)
    appended = Appended(position=1, first_position=1, versions={}, is_repeat=False)

    def commit(appends: Sequence[group.Append]) -> Sequence[Any]:
        return [appended] * len(appends)

    commits = group.GroupCommit(BlockingDriver(), commit)
    append = group.Append((Event("a-1", b"{}", type="A"),), ())
    for _ in range(APPENDS):
        commits._expected = 2
        assert run_sync(commits.append(append)) is appended
    commits.close()
