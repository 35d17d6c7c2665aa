"""The pages themselves: their links lead somewhere, and no block of code escapes the tests."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("adr/*.md")])
TESTED = [page for page in PAGES if page.name == "README.md" or "docs" in page.parts]
ADRS = sorted(ROOT.glob("adr/*.md"))
SECTIONS = ("**Context.**", "**Rule.**", "**Consequences.**", "**Tried or considered.**")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    for page in index.parent.rglob("*.md"):
        link = page.relative_to(index.parent)
        assert page == index or f"({link})" in index.read_text(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_compared_or_plain(page: Path) -> None:
    text = page.read_text()
    fences = re.findall(r"^[ \t]*(?:```+|~~~+)(.*)$", text, re.M)
    assert len(fences) % 2 == 0
    allowed = {"", "sh", "python", "text"} if page in TESTED else {"", "sh"}
    assert set(fences[::2]) <= allowed
    assert set(fences[1::2]) <= {""}
    # Sybil has comments that skip blocks, and would take an indented block for text.
    assert "<!--" not in text
    assert not re.search(r"^[ \t]+```", text, re.M)
    # What is compared is the output of the block before it.
    for position in (match.start() for match in re.finditer(r"^```text", text, re.M)):
        assert re.findall(r"^```(\w*)\n", text[:position], re.M)[-2:-1] == ["python"]


def test_decisions_are_numbered_and_complete() -> None:
    for number, path in zip(count(1), ADRS, strict=False):
        assert path.name.startswith(f"{number:04}-")
        title, *rest = path.read_text().splitlines()
        assert title.startswith("# ")
        places = ["\n".join(rest).find(section) for section in SECTIONS]
        assert 0 < places[0] < places[1] < places[2] < places[3], path.name
        assert len(rest) <= 60
