"""The reference has all there is, and says of it what is true."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import leftfold
import leftfold.errors
import leftfold.limits
import leftfold.testing
from leftfold import cloudevents
from leftfold.cli.processes import TRACE_EVENTS_MAX
from leftfold.command import ATTEMPTS_MAX, PAUSE_MAX_S
from leftfold.drive import READ_THREADS_MAX
from leftfold.event import RecordedEvent, record
from leftfold.process import definition as process_definition
from leftfold.process import instance, reacting, repairing, rules, stepping, working
from leftfold.projection import (
    catalog,
    columns,
    comparing,
    consuming,
    database,
    definition,
    folding,
    managing,
    pacing,
    waiting,
)
from leftfold.projection.comparing import Comparison, TableComparison
from leftfold.projection.finding import FIND_ROWS, ROWS_MAX
from leftfold.projection.managers import Projections
from leftfold.projection.status import ProjectionStatus, QuarantinedKey
from leftfold.reading import PAGE_EVENTS, WAIT_S
from leftfold.snapshot import KEPT_MAX
from leftfold.store import Capabilities, Store
from leftfold.stores.doorbell import POLL_S
from leftfold.stores.group import GATHER_S, GROUP_APPENDS_MAX
from leftfold.stores.postgres.dialect import PostgresDialect
from leftfold.stores.sqlite import database as sqlite_database
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.stores.sqlite.dialect import SqliteDialect
from leftfold.stores.sqlite.pool import READERS_MAX
from leftfold.stores.sqlite.snapshots import SNAPSHOTS_SUFFIX
from leftfold.upcasting import UPCASTS_MAX

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = {path.name: path.read_text() for path in sorted(REFERENCE.glob("*.md"))}
ERRORS = {
    name: each
    for name, each in vars(leftfold.errors).items()
    if inspect.isclass(each) and issubclass(each, Exception)
}
LIMITS = {name: value for name, value in vars(leftfold.limits).items() if name.endswith("_MAX")}
CHECKPOINT_EVENTS_MAX = 10_000
"""That `Consumer` takes; see test_a_consumer_moves_its_checkpoint_this_often."""
# Functions and methods, and the page that has a heading with their signatures.
CALLABLES: dict[str, list[Any]] = {
    "opening.md": [leftfold.open, leftfold.aopen],
    "event-store.md": [
        leftfold.EventStore.append,
        leftfold.EventStore.append_to_stream,
        leftfold.EventStore.read,
        leftfold.EventStore.subscribe,
        leftfold.EventStore.head,
        leftfold.EventStore.close,
    ],
    "deciders.md": [
        leftfold.Decider,
        leftfold.EventStore.handle,
        leftfold.EventStore.load,
        leftfold.EventStore.state,
        leftfold.EventStore.history,
        leftfold.Snapshots,
        leftfold.App,
    ],
    "store.md": [Store.append, Store.read, Store.head, Store.wait, Store.close],
    "values.md": [
        leftfold.Event,
        leftfold.Metadata,
        leftfold.select,
        leftfold.StreamVersion,
        leftfold.NoneMatch,
        leftfold.Version,
        leftfold.new_id,
    ],
    "projections.md": [
        leftfold.Projection,
        leftfold.SqlProjection,
        leftfold.Consumer,
        leftfold.EventStore.running,
        leftfold.EventStore.view,
        leftfold.View.get,
        leftfold.View.find,
        leftfold.View.count,
        leftfold.View.sql,
        leftfold.View.wait,
        Projections.status,
        Projections.quarantine,
        Projections.rebuild,
        Projections.compare,
        Projections.swap,
        Projections.rollback,
        Projections.retry,
        Projections.skip,
        Projections.drop,
        cloudevents.cloud_event,
        cloudevents.publishing,
    ],
    "codec.md": [
        leftfold.Codec,
        leftfold.EventType,
        leftfold.Tag,
        leftfold.Upcaster,
        leftfold.Payload,
    ],
}


def prose(text: str) -> str:
    """Text without line breaks and without marks of code."""
    return " ".join(text.replace("`", "").split())


def rows(page: str) -> dict[str, list[str]]:
    """The rows of the tables of a page, by the name in code style in their first cell."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGES[page].splitlines() if "|" in line]
    return {
        name[1]: [cell.strip() for cell in row[1:]]
        for row in cells
        if (name := re.fullmatch(r"\s*`(\w+)`\s*", row[0]))
    }


def code_of(text: str) -> set[str]:
    """The words in code style, outside of blocks."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}


@pytest.mark.parametrize("name", leftfold.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert name in code_of("\n".join(PAGES.values()))


@pytest.mark.parametrize("name", leftfold.testing.__all__)
def test_every_public_name_of_the_test_kit_is_in_the_reference(name: str) -> None:
    assert name in rows("testing.md")


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_says_what_to_do_and_has_its_facts(name: str) -> None:
    meaning, what_to_do = rows("errors.md")[name]
    assert what_to_do
    facts = set(inspect.signature(ERRORS[name].__init__).parameters) - {"self", "args", "kwargs"}
    facts -= {"what", "recorded"}  # not kept, or kept as several
    assert facts <= code_of(meaning) | {"reason"}
    for base in ERRORS[name].__bases__:
        assert base in (leftfold.LeftfoldError, Exception) or base.__name__ in code_of(meaning)


def test_there_is_no_error_but_those() -> None:
    assert rows("errors.md").keys() == ERRORS.keys()


def test_every_limit_has_its_number() -> None:
    numbers = {name: int(row[0].replace(",", "")) for name, row in rows("limits.md").items()}
    assert numbers == LIMITS


def test_every_option_has_its_default() -> None:
    documented = {name: row[0].strip("`") for name, row in rows("opening.md").items()}
    fields = msgspec.structs.fields(SqliteOptions)
    assert documented == {field.name: str(field.default) or "(empty)" for field in fields}


def test_every_capability_has_its_default() -> None:
    documented = rows("store.md")
    for field in msgspec.structs.fields(Capabilities):
        assert documented[field.name][0] == f"`{field.default}`"


def test_the_guarantees_are_those_of_the_protocol() -> None:
    pattern = r"- \*\*(G\d) (.*?)(?=- \*\*G|Not promised)"
    promised = re.findall(pattern, prose(Store.__doc__ or ""))
    assert len(promised) == 9
    assert re.findall(pattern, prose(PAGES["store.md"])) == promised
    for number, text in promised:
        name = text.partition("**")[0]
        assert f"| {number} {name} |" in (ROOT / "README.md").read_text()


def test_every_field_of_what_projections_say_is_in_the_reference() -> None:
    text = PAGES["projections.md"]
    for kind in (ProjectionStatus, QuarantinedKey, Comparison, TableComparison):
        for field in msgspec.structs.fields(kind):
            assert field.name in code_of(text), (kind.__name__, field.name)


def test_every_field_of_how_an_instance_is_has_its_meaning() -> None:
    table = PAGES["processes.md"].partition("What `list` returns a list of has these fields:")[2]
    found = re.findall(r"`(\w+)`(?=[^|]*\|[^|]*\|$)", table, re.M)
    assert found == [field.name for field in msgspec.structs.fields(repairing.InstanceStatus)]


def test_every_state_is_explained() -> None:
    found = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("projections.md", "States"), re.M)
    states = {name for cell in found for name in re.findall(r"\w+", cell)}
    assert states == set(get_args(get_type_hints(ProjectionStatus)["state"]))


def test_every_column_type_is_there_for_both_engines() -> None:
    rows = re.findall(r"^\| .* \| (.*) \| (.*) \|$", section("projections.md", "Columns"), re.M)
    for place, dialect in enumerate((SqliteDialect(), PostgresDialect())):
        documented = {re.findall(r"`([^`]+)`", row[place])[0] for row in rows[1:]}
        assert documented == {dialect.column(kind) for kind in get_args(database.ColumnType)}


def test_every_table_of_the_catalog_is_there() -> None:
    text = section("projections.md", "Where it is kept")
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", "".join(catalog._TABLES))
    assert re.findall(r"^\| `(leftfold_\w+)` \|", text, re.M) == tables


def test_every_attribute_of_a_cloud_event_is_there() -> None:
    metadata = leftfold.Metadata("a", "b")
    event = leftfold.Event("account-1", b"{}", type="Opened", metadata=metadata)
    recorded: list[RecordedEvent[Any]] = [record(event, 1, 1, 0)]
    recorded.append(msgspec.structs.replace(recorded[0], data=leftfold.Version(1)))
    found: set[str] = set()
    for each in recorded:
        found |= msgspec.json.decode(cloudevents.cloud_event(each, source="a"), type=dict).keys()
    text = section("projections.md", "CloudEvents")
    cells = re.findall(r"^\| (`.*?) \|", text, re.M)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == found


def test_a_consumer_moves_its_checkpoint_this_often() -> None:
    leftfold.Consumer("mail", handle=print, checkpoint_events=CHECKPOINT_EVENTS_MAX)
    with pytest.raises(leftfold.InvalidInput):
        leftfold.Consumer("mail", handle=print, checkpoint_events=CHECKPOINT_EVENTS_MAX + 1)
    assert f"1 to {CHECKPOINT_EVENTS_MAX:,}: so many" in PAGES["projections.md"]


def section(page: str, heading: str) -> str:
    return PAGES[page].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_limit_of_projections_has_its_number() -> None:
    text = section("limits.md", "Of projections")
    # The last number of each row is the limit.
    found = re.findall(r"^\| .* \| .*?([\d,]*\d)(?: [a-z]+)? \|$", text, re.M)
    assert [int(number.replace(",", "")) for number in found] == [
        definition.NAME_CHARACTERS_MAX,
        columns.COLUMNS_MAX,
        columns.INTEGER_MAX,
        definition.ATTEMPTS_LIMIT,
        CHECKPOINT_EVENTS_MAX,
        pacing.BATCH_EVENTS_MAX,
        managing.PARTITIONS_MAX,
        ROWS_MAX,
        waiting.WAIT_S_MAX,
        sqlite_database.QUERY_TIMEOUT_S,
        folding.ERROR_CHARACTERS_MAX,
    ]


def test_every_limit_of_processes_has_its_number() -> None:
    text = section("limits.md", "Of processes")
    given = re.findall(r", ([\d,]+) unless given \|", text)
    assert [int(number.replace(",", "")) for number in given] == [
        rules.CONCURRENCY,
        rules.REACTIONS_MAX,
        rules.CALL_ATTEMPTS_MAX,
        repairing.LIST_INSTANCES,
    ]
    found = re.findall(r"^\| .* \| .*?([\d,]*\d)(?: [a-z]+)? \|$", text, re.M)
    assert [int(number.replace(",", "")) for number in found] == [
        process_definition.NAME_CHARACTERS_MAX,
        leftfold.limits.NAME_BYTES_MAX,
        reacting.STEP_BYTES_MAX,
        process_definition.CONCURRENCY_MAX,
        process_definition.LIMIT_MAX,
        instance.CONVERSATIONS_MAX,
        process_definition.LIMIT_MAX,
        stepping.PAUSE_MAX_US // 1_000_000,
        reacting.TIME_MAX.days // 365,
        working.TIMERS_AT_ONCE,
        working.STATES_KEPT,
        ROWS_MAX,
        TRACE_EVENTS_MAX,
    ]


def documented_arguments(page: str) -> dict[str, ast.arguments]:
    found = {}
    for name, given in re.findall(r"^##+ `(?:await )?(\w+)\((.*)\)`$", PAGES[page], re.M):
        signature = ast.parse(f"lambda {given}: 0", mode="eval").body
        assert isinstance(signature, ast.Lambda)
        found[name] = signature.args
    return found


@pytest.mark.parametrize(
    ("page", "function"),
    [(page, function) for page, functions in CALLABLES.items() for function in functions],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_signatures_are_those_of_the_code(page: str, function: Any) -> None:
    documented = documented_arguments(page)[function.__name__]
    actual = [
        each for each in inspect.signature(function).parameters.values() if each.name != "self"
    ]
    by_place = [each.name for each in actual if each.kind is each.POSITIONAL_OR_KEYWORD]
    by_name = [each.name for each in actual if each.kind is each.KEYWORD_ONLY]
    assert [each.arg for each in documented.args] == by_place
    assert [each.arg for each in documented.kwonlyargs] == by_name
    given = documented.defaults + [each for each in documented.kw_defaults if each]
    defaults = [each.default for each in actual if each.default is not each.empty]
    assert len(given) == len(defaults)
    for written, default in zip(given, defaults, strict=True):
        # Others are names, such as ALL.
        if isinstance(written, ast.Constant) and written.value is not ...:
            assert written.value == default


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("reference/event-store.md", f"pages of {PAGE_EVENTS} "),
        ("reference/event-store.md", f"within {WAIT_S} seconds"),
        ("reference/codec.md", f"limited to {UPCASTS_MAX}"),
        ("reference/deciders.md", f"up to {ATTEMPTS_MAX} times"),
        ("reference/deciders.md", f"up to {PAUSE_MAX_S * 1000:.0f} milliseconds"),
        ("reference/deciders.md", f"Of each stream the last {KEPT_MAX} are kept"),
        ("reference/deciders.md", f"bank.db{SNAPSHOTS_SUFFIX}"),
        ("reference/deciders.md", f"do not within {waiting.WAIT_S:.0f} seconds"),
        ("reference/limits.md", f"up to {folding.ROWS_KEPT_MAX:,} rows of keys"),
        ("reference/projections.md", f"at most {definition.NAME_CHARACTERS_MAX} characters"),
        ("reference/projections.md", f"is tried, 1 to {definition.ATTEMPTS_LIMIT}"),
        ("reference/projections.md", f"*lease* for {catalog.LEASE_S:.0f} seconds"),
        (
            "reference/projections.md",
            f"{pacing.BATCH_EVENTS_MIN} to {pacing.BATCH_EVENTS_MAX:,} events, and at most about",
        ),
        (
            "reference/projections.md",
            f"and at most about {pacing.BATCH_BYTES // 2**20} MiB of data",
        ),
        ("reference/projections.md", f"less than {pacing.BATCH_S / 2} seconds"),
        ("reference/projections.md", f"more than {2 * pacing.BATCH_S}."),
        ("reference/projections.md", f"after {consuming.PAUSE_MIN_S} seconds, then twice"),
        ("reference/projections.md", f"up to {consuming.PAUSE_MAX_S:.0f} seconds."),
        ("reference/projections.md", f"first limit rows (at most {ROWS_MAX:,})"),
        ("reference/projections.md", f"The rows, at most {ROWS_MAX:,}, of a SELECT"),
        ("reference/projections.md", f"seconds (at most {waiting.WAIT_S_MAX:.0f})"),
        ("reference/projections.md", f"partitions, 1 to {managing.PARTITIONS_MAX}, has"),
        ("reference/projections.md", f"up to {comparing.SAMPLES_MAX} samples"),
        (
            "reference/projections.md",
            f"{sqlite_database.QUERY_TIMEOUT_S:.0f} seconds is the longest",
        ),
        ("how-to/projections.md", f"{FIND_ROWS} at a time"),
        ("how-to/failing-projections.md", f"up to {consuming.PAUSE_MAX_S:.0f} seconds"),
        ("how-to/several-processes.md", f"about {POLL_S * 1000:.0f} milliseconds"),
        ("how-to/several-processes.md", f"({SqliteOptions().busy_timeout_s:.0f} seconds"),
        ("how-to/import-events.md", f"up to {LIMITS['APPEND_EVENTS_MAX']:,} events"),
        ("explanation/waiting.md", f"up to {GROUP_APPENDS_MAX} appends"),
        ("explanation/waiting.md", f"up to {GATHER_S * 1000} milliseconds"),
        ("explanation/waiting.md", f"every {POLL_S * 1000:.0f} milliseconds"),
        ("explanation/waiting.md", f"up to {READERS_MAX}, "),
        ("explanation/waiting.md", f"An async store reads in up to {READ_THREADS_MAX} threads"),
    ],
)
def test_numbers_in_the_text_are_those_of_the_code(page: str, sentence: str) -> None:
    assert sentence in prose((ROOT / "docs" / page).read_text())
