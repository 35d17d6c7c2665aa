"""What sync code and async code are given is the same, in signatures and in words."""

from __future__ import annotations

import inspect

import pytest

from leftfold import AsyncView, View
from leftfold.projection.managers import AsyncProjections, AsyncRunner, Projections, Runner


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(View, AsyncView), (Projections, AsyncProjections), (Runner, AsyncRunner)],
    ids=lambda each: each.__name__,
)
def test_twins_have_the_same_methods_and_words(mine: type, theirs: type) -> None:
    def methods(of: type) -> dict[str, object]:
        return {
            name: (inspect.signature(each).parameters, each.__doc__)
            for name, each in vars(of).items()
            if inspect.isfunction(each) and not name.startswith("__")
        }

    assert methods(mine) == methods(theirs)
    assert len(methods(mine)) >= 2
