"""The tables and SQL views of read models, as the database has them. Functions of a transaction.

Each table of a build has the build's number in its name. What serves can be read through an SQL
view without the number.
"""

from __future__ import annotations

from leftfold.errors import ProjectionRefused
from leftfold.projection.catalog import Build
from leftfold.projection.database import Transaction

_COLUMNS = {
    "sqlite": "SELECT name, type FROM pragma_table_info(?) ORDER BY cid",
    "postgresql": """SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = to_regclass(quote_ident(?)) AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum""",
}
_KEY = {
    "sqlite": "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY 1",
    "postgresql": """SELECT attname::text FROM pg_index
 JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
 WHERE indisprimary AND indrelid = to_regclass(quote_ident(?)) ORDER BY 1""",
}
_TAKEN = {
    "sqlite": "SELECT 1 FROM sqlite_schema WHERE lower(name) = lower(?)",
    "postgresql": """SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
 WHERE nspname = current_schema() AND relname = ?""",
}


def tables_of(tx: Transaction, build: Build) -> dict[str, str]:
    """The tables of a build, each by the name of its SQL view."""
    found = {}
    for table in tx.relations(build.table):
        suffix = table.removeprefix(build.table)
        # Build 1 is not the owner of what build 10 has.
        if not suffix or suffix.startswith("_"):
            found[build.name + suffix] = table
    return found


def columns_of(tx: Transaction, table: str) -> dict[str, str]:
    """The SQL types of the columns of a table by their names, in order."""
    return dict(tx.execute(_COLUMNS[tx.dialect.name], [table]))


def key_of(tx: Transaction, table: str) -> list[str]:
    """The columns of the primary key of a table; none where it has no such key."""
    return [name for (name,) in tx.execute(_KEY[tx.dialect.name], [table])]


def make_views(tx: Transaction, build: Build, before: Build | None = None) -> None:
    """Show the tables of a build under their names without its number, in place of those of
    `before`. Raises ProjectionRefused where the database has something else of such a name.

    A view whose columns stay stays itself on PostgreSQL, with its grants and all that depends on
    it.
    """
    old = _by_view(tx, before) if before else {}
    new = tables_of(tx, build)
    for view in new.keys() - old.keys():
        if tx.execute(_TAKEN[tx.dialect.name], [view]):
            raise ProjectionRefused(
                f"projection {build.name!r} is to be read by SQL as {view!r}, and the database has "
                "something else of that name; rename one of the two"
            )
    for view, table in old.items():
        if view not in new or not _can_replace(tx, table, new[view]):
            tx.execute(f"DROP VIEW IF EXISTS {tx.dialect.quote(view)}")
    create = "CREATE VIEW" if tx.dialect.name == "sqlite" else "CREATE OR REPLACE VIEW"
    for view, table in new.items():
        tx.execute(f"{create} {tx.dialect.quote(view)} AS SELECT * FROM {tx.dialect.quote(table)}")


def drop_tables(tx: Transaction, build: Build) -> None:
    """Drop the tables of a build, and their SQL views where it serves."""
    found = _by_view(tx, build)
    if build.state == "serving":
        for view in found:
            tx.execute(f"DROP VIEW IF EXISTS {tx.dialect.quote(view)}")
    tables = [tx.dialect.quote(table) for table in found.values()]
    # Together, as they may refer to each other; SQLite drops one at a time, whatever they refer to.
    together = [", ".join(tables)] if tables and tx.dialect.name == "postgresql" else tables
    for each in together:
        # What belongs to a virtual table is gone with it.
        tx.execute(f"DROP TABLE IF EXISTS {each}")


def _by_view(tx: Transaction, build: Build) -> dict[str, str]:
    """As `tables_of`, and the table of rows also where somebody has dropped it: its view may be
    there still.
    """
    return ({build.name: build.table} if build.shape else {}) | tables_of(tx, build)


def _can_replace(tx: Transaction, old: str, new: str) -> bool:
    """Whether a view can be of another table without being dropped: columns may be added."""
    before, after = list(columns_of(tx, old).items()), list(columns_of(tx, new).items())
    return tx.dialect.name != "sqlite" and after[: len(before)] == before
