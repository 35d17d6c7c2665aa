"""The pages about PostgreSQL have all there is, and the right numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

import leftfold
from leftfold.stores.doorbell import POLL_S
from leftfold.stores.postgres import PostgresOptions
from leftfold.stores.postgres.news import GAP_S, LINGER_S, NOTIFIED_POLL_S
from leftfold.stores.postgres.reader import OWN_WAIT_S
from leftfold.stores.postgres.snapshots import KEPT_MAX

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "postgresql.md").read_text()
HOW_TO = (DOCS / "how-to" / "postgresql.md").read_text()


def first_column(heading: str) -> set[str]:
    section = REFERENCE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)", row)}


def test_every_option_has_its_default() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", REFERENCE, re.M))
    fields = msgspec.structs.fields(PostgresOptions)
    assert documented == {field.name: str(field.default) for field in fields}


def test_columns_tables_and_functions_are_those_of_the_schema(server: Any) -> None:
    schema = server.new_schema()
    leftfold.open(f"{server.url()}?schema={schema}").close()

    def names(sql: str) -> set[Any]:
        return {name for (name,) in server.execute(sql)}

    columns = f"""SELECT attname FROM pg_attribute
        WHERE attrelid = '{schema}.log'::regclass AND attnum > 0"""
    assert first_column("The view `log`") == names(columns)
    tables = f"""SELECT relname FROM pg_class
        WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"""
    assert first_column("Tables") == names(tables)
    functions = f"SELECT proname FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace"
    assert first_column("Functions") <= names(functions)


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    assert f"the last {KEPT_MAX} of each stream" in REFERENCE
    assert f"for {LINGER_S:.0f} seconds" in REFERENCE
    assert f"every {GAP_S * 1000:.0f} milliseconds" in REFERENCE
    assert NOTIFIED_POLL_S == 1.0
    assert "every second" in HOW_TO
    assert f"every {POLL_S * 1000:.0f} milliseconds" in HOW_TO
    assert OWN_WAIT_S == 1.0
    assert "wait up to a second" in HOW_TO


def test_the_grants_are_those_of_the_tests() -> None:
    tested = (Path(__file__).with_name("test_postgres_bad_input.py")).read_text()
    for grant in re.findall(r"^(GRANT .*);$", HOW_TO, re.M):
        pattern = (
            re.escape(grant).replace("bank", r"\{schema\}").replace("teller", "teller(, auditor)?")
        )
        assert re.search(pattern, tested), grant
