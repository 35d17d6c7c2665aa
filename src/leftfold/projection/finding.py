"""Questions about the rows of a Projection: by key, or by fields that are indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from leftfold.errors import InvalidInput
from leftfold.limits import check_integer
from leftfold.projection.catalog import Build
from leftfold.projection.columns import Columns, Values
from leftfold.projection.database import Dialect, Transaction
from leftfold.projection.definition import Projection

R = TypeVar("R")
T = TypeVar("T")

FIND_ROWS = 100
"""Rows that `find` returns, unless told."""
ROWS_MAX = 10_000
"""Rows that one `find` or `sql` returns at most."""

Question = Callable[[Transaction, Build], T]
"""What is asked of a build, in the transaction in which it was looked at."""


class Finding(Generic[R]):
    """Makes questions about the rows of a Projection. Raises InvalidInput for values that do not
    fit its columns.
    """

    def __init__(self, projection: Projection[R], dialect: Dialect) -> None:
        self._name = projection.name
        self._columns: Columns = projection.columns
        self._binding = self._columns.bind(dialect)
        self._quote = dialect.quote
        self._names = self._quoted(self._columns.names)
        key = [each.name for each in self._columns.key]
        self._key = self._quoted(key)
        self._marks = ", ".join("?" * len(key))
        self._usable = dict.fromkeys((*key, *projection.indexes))

    def key(self, found: Any) -> Values:
        """A key as a tuple, for `get`."""
        with self._refusing("key"):
            key = self._columns.key_of(found)
            self._binding.key_values(key)
        return key

    def get(self, key: Values) -> Question[R | None]:
        """The row of a key that fits, or None."""
        where = f"({self._key}) = ({self._marks})"
        values = self._binding.key_values(key)

        def ask(tx: Transaction, build: Build) -> R | None:
            rows = tx.execute(self._select(self._names, build, where), values)
            return self._binding.row(rows[0]) if rows else None

        return ask

    def find(
        self, where: Mapping[str, Any] | None, limit: int, beyond: R | None
    ) -> Question[list[R]]:
        """The first rows, by key, that have these values and come after the key of `beyond`."""
        check_integer("limit (rows)", limit, 1, ROWS_MAX)
        tests, values = self._tests(where)
        if beyond is not None:
            with self._refusing("beyond"):
                values += self._binding.key_of(self._binding.values(beyond))
            tests.append(f"({self._key}) > ({self._marks})")
        values.append(limit)

        def ask(tx: Transaction, build: Build) -> list[R]:
            select = self._select(self._names, build, *tests)
            rows = tx.execute(f"{select} ORDER BY {self._key} LIMIT ?", values)
            return [self._binding.row(each) for each in rows]

        return ask

    def count(self, where: Mapping[str, Any] | None) -> Question[int]:
        """How many rows have these values."""
        tests, values = self._tests(where)

        def ask(tx: Transaction, build: Build) -> int:
            ((found,),) = tx.execute(self._select("count(*)", build, *tests), values)
            return int(found)

        return ask

    def _select(self, what: str, build: Build, *tests: str) -> str:
        where = f" WHERE {' AND '.join(tests)}" if tests else ""
        return f"SELECT {what} FROM {self._quote(build.table)}{where}"

    def _tests(self, where: Mapping[str, Any] | None) -> tuple[list[str], list[Any]]:
        """What SQL tests, and the values that it takes."""
        if where is not None and not isinstance(where, Mapping):
            raise InvalidInput(f"rows are found by a dict of fields and values, found {where!r}")
        tests: list[str] = []
        values: list[Any] = []
        for name, value in (where or {}).items():
            self._check_is_usable(name)
            with self._refusing("where"):
                encoded = self._binding.value(name, value)
            tests.append(f"{self._quote(name)} {'IS NULL' if encoded is None else '= ?'}")
            values += [] if encoded is None else [encoded]
        return tests, values

    def _check_is_usable(self, name: object) -> None:
        if name not in self._usable:
            usable = ", ".join(self._usable)
            raise InvalidInput(
                f"rows of projection {self._name!r} are found by {usable}, found {name!r}; "
                "add it to indexes, or use sql"
            )

    def _quoted(self, names: Iterable[str]) -> str:
        return ", ".join(map(self._quote, names))

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise InvalidInput(f"{what} of projection {self._name!r}: {error}") from None
