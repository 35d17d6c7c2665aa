"""An application as plain data: the list of everything it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from leftfold.codec import EventCodec
from leftfold.decider import Decider, check_is_decider
from leftfold.errors import InvalidInput


class App(Struct, frozen=True, kw_only=True, eq=False):
    """What a system consists of: `App(codec=codec, deciders=[account, order])`.

    `open` takes it in place of a codec, and the command line finds deciders in it by the category
    of a stream. Raises InvalidInput for two deciders of one category.
    """

    codec: EventCodec
    deciders: Sequence[Decider[Any, Any, Any]] = ()

    def __post_init__(self) -> None:
        for each in self.deciders:
            check_is_decider(each)
        categories = [each.category for each in self.deciders]
        for category in categories:
            if categories.count(category) > 1:
                raise InvalidInput(f"there are two deciders of category {category!r} in the App")

    def decider(self, category: str) -> Decider[Any, Any, Any]:
        """The decider of a category. Raises InvalidInput, which names those there are."""
        for each in self.deciders:
            if each.category == category:
                return each
        known = ", ".join(repr(each.category) for each in self.deciders) or "none"
        raise InvalidInput(f"the App has no decider of category {category!r}, it has {known}")
