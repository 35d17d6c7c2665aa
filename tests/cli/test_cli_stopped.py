"""An import that is interrupted, killed, or kept out: what is recorded is known, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path

import apsw
import msgspec
import pytest
from cli_support import wait_for

import leftfold
from leftfold.cli.importer import Importer
from leftfold.cli.interrupt import Interrupts
from leftfold.cli.rows import Source, json_rows

COUNT = 5000
ARGUMENTS = ("import", "-", "--json", "--source", "rows")


@pytest.fixture(autouse=True)
def heeded():
    """Tests may run in the background, where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lines(start, end):
    return b"".join(
        b'{"stream":"a-%d","type":"A","data":{"n":%d}}\n' % (n % 7, n) for n in range(start, end)
    )


def numbers(log):
    return [json.loads(event.data)["n"] for event in log.read()]


def recorded_some(log, process, count):
    """Give the process some of the rows, and wait until whole batches of them are recorded."""
    process.stdin.write(lines(0, count))
    process.stdin.flush()
    wait_for(lambda: log.head() >= count // 1000 * 1000)


def goes_on(run, log):
    result = run(*ARGUMENTS, input=lines(0, COUNT)).json
    assert result["complete"]
    assert (result["read"], result["already_there"]) == (COUNT, COUNT - result["appended"])
    assert 0 < result["appended"] < COUNT
    assert numbers(log) == list(range(COUNT))
    versions = {event.stream: event.version for event in log.read()}
    assert sum(versions.values()) == COUNT


def test_ctrl_c_says_what_is_recorded_and_the_same_import_goes_on(spawn, run, log):
    process = spawn(*ARGUMENTS)
    recorded_some(log, process, 2500)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"run the same import again" in err
    assert b"Traceback" not in err
    report = msgspec.json.decode(out)
    assert (report["appended"], report["complete"]) == (log.head(), False)
    goes_on(run, log)


def test_a_killed_import_goes_on(spawn, run, log):
    process = spawn(*ARGUMENTS)
    recorded_some(log, process, 2500)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    goes_on(run, log)


def test_ctrl_c_while_the_store_writes_waits_for_it(log):
    class Writing:
        """A store in which Ctrl-C comes in the middle of its second append."""

        appends = 0
        head = staticmethod(log.head)

        def append(self, events):
            self.appends += 1
            if self.appends == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return log.append(events)

    with tempfile.TemporaryFile() as file:
        file.write(lines(0, COUNT))
        file.seek(0)
        interrupts = Interrupts()
        importer = Importer(Writing(), interrupts, "rows")
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.handled():
            importer.add_all(json_rows(Source("rows", file), None))
    assert importer.appended == log.head() == 2000
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_other_commands_with_a_code_and_without_a_word(spawn, log):
    for n in range(4):
        log.append([leftfold.Event("a-1", b'"%d"' % n, type="A") for _ in range(1000)])
    process = spawn("export")
    # The pipe is full long before the end, so it is in the middle.
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


def test_a_second_ctrl_c_does_not_wait():
    interrupts = Interrupts()
    reached = []

    def interrupt_twice():
        with interrupts.handled(), interrupts.shield():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the first is put off")
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert reached == ["the first is put off"]


def test_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts().handled():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_store_that_another_process_keeps_locked(spawn, log, here):
    other = apsw.Connection("log.db")
    other.execute("BEGIN IMMEDIATE")
    url = "sqlite:///log.db?busy_timeout_s=0.05"
    (here / "rows").write_bytes(lines(0, 10))
    for arguments in (["append", "a-1", "A", "{}"], ["import", "rows"]):
        process = spawn(*arguments, "--store", url)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert b"locked by another process" in err
        assert b"nothing was recorded" in err
        assert b"Traceback" not in err
    other.execute("ROLLBACK")
    other.close()
    assert log.head() == 0


@pytest.fixture
def plain_user(run, monkeypatch):
    """A directory in which this process has an ordinary user's rights, also when run by root."""
    # What commands import while they run may lie where only root can read.
    run("init")
    run("import", "-", input=lines(0, 1))
    for arguments in (["read"], ["check"], ["backup", "copy.db"], ["append", "a-1", "A", "{}"]):
        run(*arguments)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        monkeypatch.chdir(directory)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            if user == 0:
                os.seteuid(0)


def test_a_store_that_is_read_only(run, plain_user):
    with leftfold.open("sqlite:///log.db") as log:
        log.append([leftfold.Event("a-1", b"{}", type="A")])
    (plain_user / "log.db").chmod(0o444)
    assert len(run("read", "--json").lines) == 1
    assert run("check", "--json").json["problem_count"] == 0
    run("backup", "copy.db")
    for arguments in (["append", "a-1", "A", "{}"], ["import", "-"]):
        err = run(*arguments, input=lines(0, 3), code=2).err
        assert "is read-only; nothing was recorded" in err


def test_a_directory_in_place_of_the_store(run, here):
    (here / "log.db").mkdir()
    for arguments in (["init"], ["read"], ["append", "a-1", "A", "{}"], ["check"]):
        assert "it is a directory" in run(*arguments, code=2).err


def test_a_directory_that_does_not_exist(run):
    err = run("init", "--store", "sqlite:///no/log.db", code=2).err
    assert "no does not exist" in err
