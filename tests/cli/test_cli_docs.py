"""The page about the command line has every command, option, exit code and JSON field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from msgspec.structs import fields

from leftfold.cli import (
    backup,
    check,
    copy,
    doctor,
    export,
    imports,
    log,
    mapping,
    mending,
    overview,
    processes,
    projections,
    rebuild,
    run,
    session,
    states,
)
from leftfold.cli.importer import BATCH_EVENTS_MAX
from leftfold.cli.program import COMMANDS, program
from leftfold.cli.scan import Problem
from leftfold.cli.wire import Line
from leftfold.projection.comparing import Comparison, Difference, TableComparison
from leftfold.projection.status import ProjectionStatus

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/cli.md").read_text()
HOW_TO = (DOCS / "how-to/import-export.md").read_text()
SECTIONS = {
    re.match(r"[a-z]+( [a-z]+)?", heading)[0]: (heading, text)
    for heading, text in re.findall(r"^## `([^`\n]*)`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
GLOBAL = {"--store", "--app", "--json", "--help", "-h"}
PRINTED = {
    "init": [log.Opened],
    "append": [log.Recorded],
    "read": [Line],
    "tail": [],
    "streams": [overview.StreamRow],
    "types": [overview.TypeRow],
    "stat": [overview.PostgresStat],
    "check": [check.Checked, Problem],
    "doctor": [
        doctor.Diagnosis,
        doctor.Finding,
        doctor.PostgresFacts,
        doctor.AtWork,
        doctor.SqliteFacts,
        doctor.Holder,
    ],
    "state": [states.StateShown],
    "history": [states.StepLine, states.Change],
    "export": [export.Exported],
    "import": [imports.Imported],
    "backup": [backup.BackupMade],
    "copy": [copy.Copied],
    "run": [run.LogLine],
    "projections list": [projections.ListRow],
    "projections status": [ProjectionStatus],
    "projections quarantine": [projections.QuarantineRow],
    "projections rebuild": [rebuild.Rebuilt],
    "projections compare": [Comparison, TableComparison, Difference],
    "projections swap": [projections.BuildRow],
    "projections rollback": [projections.BuildRow],
    "projections retry": [mending.Mended],
    "projections skip": [mending.Mended],
    "projections drop": [projections.BuildRow],
    "processes list": [processes.InstanceRow],
    "processes show": [processes.Shown, processes.StepShown],
    "processes retry": [processes.Shown],
    "processes skip": [processes.Shown],
    "processes cancel": [processes.Shown],
    "trace": [processes.TraceLine],
    "demo": [],
}
CLI = typer.main.get_command(program)


def flat(group, prefix=""):
    """The commands of a group, and of the groups in it, by their whole names."""
    found = {}
    for name, each in group.commands.items():
        is_group = hasattr(each, "commands")
        found |= flat(each, f"{prefix}{name} ") if is_group else {prefix + name: each}
    return found


ALL = flat(CLI)


def options(command):
    return {name for each in command.params for name in each.opts if name.startswith("-")}


def arguments(command):
    return [each for each in command.params if not each.opts[0].startswith("-")]


def in_code(text):
    """Everything that is written as code, word by word."""
    return set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`]+)`", text))))


def test_every_command_has_a_section():
    assert list(SECTIONS) == list(COMMANDS) == list(PRINTED)
    assert set(ALL) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_its_section(name):
    heading, text = SECTIONS[name]
    command = ALL[name]
    own = options(command) - GLOBAL
    assert own <= in_code(text)
    documented = {word for word in in_code(text) if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert documented - GLOBAL <= own
    for argument in arguments(command):
        assert argument.metavar.split()[0] in heading


def test_options_of_every_command():
    table = PAGE[PAGE.index("## Options of every command") : PAGE.index("## Exit codes")]
    common = set.intersection(*(options(each) for each in ALL.values()))
    assert common | options(CLI) <= in_code(table)
    assert common == GLOBAL - {"-h", "--help"} or common == GLOBAL


@pytest.mark.parametrize("name", PRINTED)
def test_every_field_of_json_is_in_its_section(name):
    _, text = SECTIONS[name]
    json = text[text.index("JSON") :]
    for printed in PRINTED[name]:
        assert {field.encode_name for field in fields(printed)} <= in_code(json)


def test_every_kind_of_problem_is_in_its_section():
    sources = Path(check.__file__).parent.glob("*.py")
    pattern = r"(?:problem_of\(event, |[pP]roblem\()\"(\w+)\""
    kinds = {kind for path in sources for kind in re.findall(pattern, path.read_text())}
    documented = set(re.findall(r"^\| `(\w+)` \|", SECTIONS["check"][1], re.M))
    assert kinds == documented


def test_exit_codes():
    table = PAGE[PAGE.index("## Exit codes") : PAGE.index("## `init`")]
    codes = {int(code) for code in re.findall(r"^\| `(\d+)` \|", table, re.M)}
    assert codes == {
        0,
        session.PROBLEMS,
        session.REFUSED,
        session.INTERRUPTED,
        session.PIPE_CLOSED,
    }


def test_the_columns_of_a_csv_file():
    words = " ".join(PAGE.split())
    columns = words[words.index("a table: ") + 9 : words.index(", data (JSON) |")]
    assert tuple(columns.replace(" (JSON)", "").split(", ")) == export.CSV_COLUMNS


def test_the_mapping_file_has_every_option():
    block = HOW_TO[HOW_TO.index("for `--mapping") :]
    names = set(re.findall(r'^  "(\w+)":', block, re.M))
    assert names == {field.name for field in fields(mapping.Columns)}


def test_the_size_of_a_batch():
    assert f"batches of up to {BATCH_EVENTS_MAX}," in HOW_TO


def test_the_size_of_a_batch_of_a_copy():
    how_to = (DOCS / "how-to/move-a-log.md").read_text()
    assert f"batches of up to {copy.BATCH_EVENTS_MAX}." in how_to
