"""The flows behind views: what is asked of a projection, of whatever keeps its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from leftfold.errors import InvalidInput
from leftfold.projection.definition import Projection, SqlProjection
from leftfold.projection.finding import ROWS_MAX, Finding, Question
from leftfold.projection.folded import Folded, Moment
from leftfold.projection.folding import key_text
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.waiting import Stored, check_is_readable, no_question, wish_of

R = TypeVar("R")
T = TypeVar("T")


class Viewing(Generic[R]):
    """Asks one projection, as it is now or as of `at`."""

    def __init__(
        self,
        parts: ProjectionParts,
        projection: Projection[R] | SqlProjection,
        at: Moment | None,
    ) -> None:
        check_is_readable(projection)
        self._name = projection.name
        is_folded = at is not None or projection.mode == "live"
        self._source: Stored | Folded = (
            Folded(parts, projection, at) if is_folded else Stored(parts, projection)
        )
        self._finding: Finding[R] | None = None
        if isinstance(projection, Projection):
            self._finding = Finding(projection, self._source.dialect)

    @property
    def rows(self) -> Finding[R]:
        """What can be asked of its rows. Raises InvalidInput where these are not ours."""
        if self._finding is None:
            raise InvalidInput(f"SqlProjection {self._name!r} has tables of its own; use sql")
        return self._finding

    async def get(self, key: Any, after: str | None, timeout_s: float) -> R | None:
        """The row of a key."""
        values = self.rows.key(key)
        wish = wish_of(after, timeout_s, key_text(values))
        return await self._source.read(self.rows.get(values), wish)

    async def ask(self, question: Question[T], after: str | None, timeout_s: float) -> T:
        """What may take any of its rows to be answered."""
        return await self._source.read(question, wish_of(after, timeout_s))

    async def wait(self, token: str, timeout_s: float) -> None:
        """Return once an append shows for all keys."""
        wish = replace(wish_of(token, timeout_s), is_strict=True)
        await self._source.read(no_question, wish)

    async def sql(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of a SELECT by the names of their columns."""
        columns, rows = await self._source.query(sql, values, limit=ROWS_MAX)
        for name in columns:
            if columns.count(name) > 1:
                raise InvalidInput(f"two columns are called {name!r}; name one with AS")
        return [dict(zip(columns, row, strict=True)) for row in rows]
