"""The tests that a page cites for a promise are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CITED = sorted(
    {
        (page, cited)
        for page in PAGES
        for cited in re.findall(r"`(tests/[\w./]+::\w+)`", page.read_text())
    }
)
GUARANTEES = (ROOT / "docs/explanation/projections.md").read_text()


@pytest.mark.parametrize(("page", "cited"), CITED, ids=lambda each: str(each).split("::")[-1])
def test_a_cited_test_is_there(page: Path, cited: str) -> None:
    path, _, name = cited.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    assert name in {each.name for each in functions}, page


def test_every_promise_of_projections_cites_a_test() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", GUARANTEES, re.M)
    promises = [(promise, tests) for promise, tests in rows if promise != "promise"]
    assert len(promises) > 30
    for promise, tests in promises:
        assert re.fullmatch(r"(`tests/[\w./]+::test_\w+`(, )?)+", tests), promise
