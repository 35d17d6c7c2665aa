"""backup: a copy of one moment, made while others write, and never in the way of something."""

from __future__ import annotations

import os

import apsw
import pytest

import leftfold
from leftfold import Event
from leftfold.cli.sqlite_file import copy_file


def fill(log, count=1000):
    log.append([Event("a-1", b'{"n":"%s"}' % (b"x" * 200), type="A") for _ in range(count)])


def test_a_backup_is_the_log(run, log, here):
    fill(log)
    done = run("backup", "copy.db", "--json").json
    assert (done["path"], done["head"]) == (str(here / "copy.db"), 1000)
    assert done["bytes"] == (here / "copy.db").stat().st_size
    with leftfold.open("sqlite:///copy.db") as copy:
        assert list(copy.read()) == list(log.read())
        copy.append([Event("a-1", b"{}", type="A")])
    assert log.head() == 1000
    names = {name for name in os.listdir(here) if "copy" in name}
    assert names == {"copy.db"}


def test_a_backup_is_of_one_moment_while_others_write(log, here, monkeypatch):
    fill(log)
    monkeypatch.setattr("leftfold.cli.sqlite_file.BACKUP_PAGES", 3)
    steps = []

    def write_in_between(left, total):
        # If each commit made it begin again, it would never come to an end.
        assert len(steps) < 10_000
        steps.append(left)
        fill(log, 1)

    assert copy_file("log.db", here / "copy.db", write_in_between) == 1000
    assert len(steps) > 20
    assert steps == sorted(steps, reverse=True)
    assert log.head() == 1000 + len(steps)
    with leftfold.open("sqlite:///copy.db") as copy:
        assert list(copy.read()) == list(log.read(until=1000))


def test_what_is_there_is_not_replaced_unless_told(run, log, here):
    fill(log, 1)
    (here / "copy.db").write_bytes(b"precious")
    assert "is there already; --force" in run("backup", "copy.db", code=2).err
    assert (here / "copy.db").read_bytes() == b"precious"
    run("backup", "copy.db", "--force")
    with leftfold.open("sqlite:///copy.db") as copy:
        assert copy.head() == 1


def test_the_log_is_not_its_own_backup(run, log, here):
    fill(log, 1)
    os.link("log.db", "other.db")
    for name in ("log.db", "./log.db", "other.db"):
        assert "is the log itself" in run("backup", name, "--force", code=2).err
    assert log.head() == 1


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_the_helper_of_another_database_is_not_applied_to_the_copy(run, log, here, suffix):
    fill(log, 1)
    (here / f"copy.db{suffix}").write_bytes(b"frames")
    assert f"copy.db{suffix} belongs to another" in run("backup", "copy.db", code=2).err
    assert not (here / "copy.db").exists()


def test_places_that_cannot_be(run, log, here):
    fill(log, 1)
    (here / "folder").mkdir()
    assert "is a directory" in run("backup", "folder", code=2).err
    run("backup", "no/copy.db", code=2)


def test_a_copy_that_is_damaged_gets_no_name(run, log, here, monkeypatch):
    fill(log)
    log.close()
    damaged = bytearray((here / "log.db").read_bytes())
    damaged[-5 * 4096 :] = b"\xab" * 5 * 4096
    (here / "log.db").write_bytes(damaged)
    (here / "copy.db").write_bytes(b"the last good one")
    assert "the copy is damaged" in run("backup", "copy.db", "--force", code=2).err
    assert (here / "copy.db").read_bytes() == b"the last good one"
    assert [name for name in os.listdir(here) if "partial" in name] == []


def test_a_backup_that_fails_leaves_nothing(log, here):
    fill(log)

    def fail(left, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_file("log.db", here / "copy.db", fail)
    assert [name for name in os.listdir(here) if "copy" in name] == []
    # And the log goes on: its snapshot is let go.
    fill(log, 1)
    assert apsw.Connection("log.db").execute("PRAGMA wal_checkpoint(truncate)").get[0] == 0
