"""What differs between two builds of a projection: counted and sampled by the database. Functions
of a transaction.

Rows are the same row where they have the same primary key. A table without one, or with another one
in each build, is compared by whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from leftfold.projection.catalog import Build
from leftfold.projection.database import Transaction
from leftfold.projection.swapping import position_of
from leftfold.projection.tables import columns_of, key_of, tables_of

SAMPLES_MAX = 20
"""Differences that a comparison shows of each table."""

Row = dict[str, Any]


class Difference(Struct, frozen=True):
    """A row as both builds have it, by column; None where one has none."""

    serving: Row | None
    candidate: Row | None


class TableComparison(Struct, frozen=True, kw_only=True):
    """A table in two builds."""

    name: str
    rows_serving: int
    rows_candidate: int
    only_serving: int
    """Rows, by their key, that the candidate does not have."""
    only_candidate: int
    different: int
    """Rows that both have, with other values in the columns that both have."""
    columns_added: list[str]
    columns_removed: list[str]
    samples: list[Difference]

    @property
    def is_same(self) -> bool:
        """Whether both have the same rows, as far as they have the same columns."""
        return not (self.only_serving or self.only_candidate or self.different)


class Comparison(Struct, frozen=True, kw_only=True):
    """Two builds of a projection: what serves, and what may be swapped in."""

    name: str
    serving: int
    candidate: int
    serving_position: int
    candidate_position: int
    is_aligned: bool
    """Whether both showed the same events. Otherwise it is only natural that they differ."""
    tables: list[TableComparison]
    tables_added: list[str]
    tables_removed: list[str]

    @property
    def is_same(self) -> bool:
        """Whether both have the same rows, as far as they have the same tables and columns."""
        return all(each.is_same for each in self.tables)


def compare_builds(
    tx: Transaction, serving: Build, candidate: Build, *, is_aligned: bool
) -> Comparison:
    """Compare all tables of two builds."""
    old, new = tables_of(tx, serving), tables_of(tx, candidate)
    return Comparison(
        name=serving.name,
        serving=serving.id,
        candidate=candidate.id,
        serving_position=position_of(tx, serving),
        candidate_position=position_of(tx, candidate),
        is_aligned=is_aligned,
        tables=[_Pair(tx, name, old[name], new[name]).compare() for name in old if name in new],
        tables_added=[name for name in new if name not in old],
        tables_removed=[name for name in old if name not in new],
    )


class _Pair:
    """One table in two builds, `a` and `b` in the SQL."""

    def __init__(self, tx: Transaction, name: str, old: str, new: str) -> None:
        self._tx, self._name = tx, name
        self._old, self._new = tx.dialect.quote(old), tx.dialect.quote(new)
        self._columns = columns_of(tx, old), columns_of(tx, new)
        before, after = self._columns
        self._common = [each for each in before if before[each] == after.get(each)]
        keys = key_of(tx, old), key_of(tx, new)
        is_keyed = keys[0] == keys[1] and set(keys[0]) <= set(self._common)
        self._key = keys[0] if is_keyed else []

    def compare(self) -> TableComparison:
        before, after = self._columns
        only_old, only_new, different, samples = self._by_key() if self._key else self._by_row()
        return TableComparison(
            name=self._name,
            rows_serving=self._count(self._old),
            rows_candidate=self._count(self._new),
            only_serving=only_old,
            only_candidate=only_new,
            different=different,
            columns_added=[each for each in after if each not in self._common],
            columns_removed=[each for each in before if each not in self._common],
            samples=samples,
        )

    def _count(self, source: str) -> int:
        ((count,),) = self._tx.execute(f"SELECT count(*) FROM {source}")
        return int(count)

    def _by_key(self) -> tuple[int, int, int, list[Difference]]:
        quote, same = self._tx.dialect.quote, self._tx.dialect.same
        key = [quote(each) for each in self._key]
        on = " AND ".join(f"a.{each} = b.{each}" for each in key)
        source = f"{self._old} a FULL OUTER JOIN {self._new} b ON {on}"
        values = [quote(each) for each in self._common if each not in self._key]
        differs = " OR ".join(f"NOT a.{each} {same} b.{each}" for each in values) or "1 = 0"
        only_old, only_new = f"b.{key[0]} IS NULL", f"a.{key[0]} IS NULL"
        both = f"NOT {only_old} AND NOT {only_new} AND ({differs})"
        counts = ", ".join(
            f"count(CASE WHEN {each} THEN 1 END)" for each in (only_old, only_new, both)
        )
        ((count_old, count_new, count_both),) = self._tx.execute(f"SELECT {counts} FROM {source}")
        samples: list[Difference] = []
        if count_old or count_new or count_both:
            order = ", ".join(f"coalesce(a.{each}, b.{each})" for each in key)
            where = f"{only_old} OR {only_new} OR ({both})"
            samples = self._sample(source, f"WHERE {where} ORDER BY {order}")
        return count_old, count_new, count_both, samples

    def _sample(self, source: str, rest: str) -> list[Difference]:
        quote = self._tx.dialect.quote
        before, after = self._columns
        names = [f"a.{quote(each)}" for each in before] + [f"b.{quote(each)}" for each in after]
        rows = self._tx.execute(
            f"SELECT {', '.join(names)} FROM {source} {rest} LIMIT {SAMPLES_MAX}"
        )
        return [self._difference(row) for row in rows]

    def _difference(self, row: Sequence[Any]) -> Difference:
        before, after = self._columns
        old = dict(zip(before, row[: len(before)], strict=True))
        new = dict(zip(after, row[len(before) :], strict=True))
        is_in_both = [each[self._key[0]] is not None for each in (old, new)]
        return Difference(old if is_in_both[0] else None, new if is_in_both[1] else None)

    def _by_row(self) -> tuple[int, int, int, list[Difference]]:
        names = ", ".join(self._tx.dialect.quote(each) for each in self._common)
        if not names:
            return self._count(self._old), self._count(self._new), 0, []
        # With how often each row is there: EXCEPT takes equal rows for one.
        old, new = (
            f"SELECT {names}, count(*) FROM {table} GROUP BY {names}"
            for table in (self._old, self._new)
        )
        only_old, only_new = f"{old} EXCEPT {new}", f"{new} EXCEPT {old}"
        samples = [Difference(row, None) for row in self._rows(only_old)]
        samples += [Difference(None, row) for row in self._rows(only_new)]
        counts = [self._count(f"({each}) x") for each in (only_old, only_new)]
        return counts[0], counts[1], 0, samples[:SAMPLES_MAX]

    def _rows(self, select: str) -> list[Row]:
        # The last value is how often the row is there.
        rows = self._tx.execute(f"{select} ORDER BY 1 LIMIT {SAMPLES_MAX}")
        return [dict(zip(self._common, row[:-1], strict=True)) for row in rows]
