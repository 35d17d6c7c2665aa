"""The tables that an SqlProjection makes have names by which they are found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leftfold import App, InvalidInput, ProjectionBehind, Sql, SqlProjection
from leftfold import open as open_store
from leftfold.codec import RAW


def named(*names: Callable[[str], str]) -> SqlProjection:
    def create(sql: Sql) -> None:
        for name in names:
            sql.execute(f"CREATE TABLE {name(sql.table)} (id INTEGER)")

    def apply(sql: Sql, events: Any) -> None:
        """Nothing is written."""

    return SqlProjection("mine", create=create, apply=apply)


@pytest.mark.parametrize(
    ("projection", "found"),
    [
        (named(), "found none"),
        (named(str, lambda _: "elsewhere"), "found elsewhere"),
        (named(lambda table: f"{table}2"), "found mine__12"),
    ],
)
def test_tables_of_other_names_are_refused(projection: SqlProjection, found: str) -> None:
    with open_store("memory://", App(codec=RAW, projections=[projection])) as es:
        with pytest.raises(InvalidInput, match=found):
            es.running().start()
        with pytest.raises(ProjectionBehind):
            es.view(projection).sql("SELECT * FROM mine")


def test_several_tables(tmp_path: Any) -> None:
    projection = named(str, lambda table: f"{table}_lines")
    url = f"sqlite:///{tmp_path}/log.db"
    with open_store(url, App(codec=RAW, projections=[projection])) as es, es.running():
        view = es.view(projection)
        assert view.sql("SELECT mine.id FROM mine, mine_lines") == []
