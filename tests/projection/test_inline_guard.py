"""Nobody appends without keeping the inline projections; crashes and interrupts change nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import apsw
import inline_worker as bank
import psycopg
import pytest
from inline_worker import APP, BALANCES, CODEC, check, moved

import leftfold
from leftfold import App, Event, EventStore, ProjectionRefused
from leftfold.testing.faults import seeds

KILLS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("server").new_log())


def worker(url: str, name: str, appends: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, bank.__file__, url, name, str(appends)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_who_does_not_have_the_app_is_refused(url: str) -> None:
    with leftfold.open(url, CODEC) as before:
        before.append([moved(1, "a")])
        events = [moved(1, "a")]
        with leftfold.open(url, APP) as es:
            es.append(events)
            with leftfold.open(url, CODEC) as after:
                for plain in (before, after):
                    with pytest.raises(ProjectionRefused, match=r"balances.*projections drop"):
                        plain.append([moved(1, "a")])
                    # It is there already: nothing has to be written for it.
                    assert plain.append(events).is_repeat
            assert len([*es.read()]) == 2
            check(es)


def test_an_app_without_one_of_them_is_refused(url: str) -> None:
    with leftfold.open(url, APP):
        pass
    with (
        leftfold.open(url, App(codec=CODEC, projections=[BALANCES])) as es,
        pytest.raises(ProjectionRefused, match="totals"),
    ):
        es.append([moved(1, "a")])


def test_sql_by_hand_is_refused(tmp_path: Path) -> None:
    with leftfold.open(f"sqlite:///{tmp_path}/log.db", APP) as es:
        es.append([moved(1, "a")])
    connection = apsw.Connection(f"{tmp_path}/log.db")
    sql = "INSERT INTO events SELECT position + 1, stream_id, version + 1, kind_id, x'01'"
    rest = ", recorded_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, data FROM events"
    with pytest.raises(apsw.ConstraintError, match="inline"):
        connection.execute(sql + rest)
    connection.close()


def test_the_function_of_the_server_refuses_as_well(server: Any) -> None:
    url = server.new_log()
    with leftfold.open(url, CODEC) as plain:
        store: Any = plain.store
        with leftfold.open(url, APP), psycopg.connect(server.url()) as connection:
            mine = EventStore(store.within(connection), CODEC)
            with pytest.raises(ProjectionRefused, match="balances"):
                mine.append([moved(1, "a")])


def test_other_code_is_built_at_opening_and_the_old_is_refused(url: str) -> None:
    changed = bank.balances(version=2, key=lambda event: "one")
    with leftfold.open(url, APP) as old:
        old.append([moved(1, "a"), moved(2, "b")])
        app = App(codec=CODEC, projections=[changed, bank.TOTALS])
        with leftfold.open(url, app) as new:
            assert [row.moves for row in new.view(changed).find()] == [2]
            with pytest.raises(ProjectionRefused, match="built by other code"):
                old.append([moved(1, "a")])
            new.append([moved(1, "a")])
            assert [row.moves for row in new.view(changed).find()] == [3]
    with leftfold.open(url, APP) as old:
        check(old)


def test_it_is_built_while_others_append(url: str) -> None:
    refused = threading.Event()

    def append(plain: EventStore) -> None:
        try:
            while True:
                plain.append([moved(1, "a", "b") for _ in range(20)])
        except ProjectionRefused:
            refused.set()

    with ExitStack() as stack:
        plain = stack.enter_context(leftfold.open(url, CODEC))
        plain.append([moved(1, f"a{n}") for n in range(5000)])
        threads = [threading.Thread(target=append, args=(plain,)) for _ in range(2)]
        for each in threads:
            each.start()
        es = stack.enter_context(leftfold.open(url, APP))
        check_after = es.append([moved(1, "a")])
        for each in threads:
            each.join()
        assert refused.is_set()
        assert check_after.position == es.head()
        check(es)


def test_several_that_open_at_the_same_time_build_it_once(url: str) -> None:
    with leftfold.open(url, CODEC) as plain:
        plain.append([moved(1, f"a{n}") for n in range(3000)])
    opened: list[EventStore] = []
    threads = [
        threading.Thread(target=lambda: opened.append(leftfold.open(url, APP))) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(opened) == 4
    for es in opened:
        es.append([moved(1, "a")])
    check(opened[0])
    assert {each.build for each in opened[0].projections.status()} == {1, 2}
    for es in opened:
        es.close()


def test_processes_see_their_own_appends_and_all_of_them_are_there(url: str) -> None:
    with leftfold.open(url, APP) as es:
        workers = [worker(url, name, 60) for name in ("ann", "bob")]
        for number in range(40):
            es.append([moved(1, "me", "all")])
            assert es.view(BALANCES).get("me") == bank.Balance("me", number + 1, number + 1)
        for each in workers:
            lines = each.communicate(timeout=120)[0].splitlines()
            assert (each.returncode, len(lines)) == (0, 60)
        row = es.view(BALANCES).get("all")
        assert row
        assert row.moves == 160
        check(es)


def test_whoever_is_killed_leaves_rows_that_are_what_the_log_says(url: str) -> None:
    for seed in seeds(1):
        random = Random(seed)
        told = 0
        for _ in range(KILLS):
            with worker(url, "ann", 0) as process:
                assert process.stdout
                lines = [*islice(process.stdout, random.randrange(1, 60))]
                process.kill()
                lines += process.stdout
            told += len([each for each in lines if each.endswith(b"\n")])
            if random.random() < 0.6:
                with leftfold.open(url, APP) as es:
                    check(es)
        with leftfold.open(url, APP) as es:
            assert len([*es.read()]) >= told > 0
            check(es)


def test_an_interrupt_at_every_bytecode(tmp_path: Path) -> None:
    """Ctrl-C leaves nothing half: what is recorded is applied, and nothing else."""
    command = [sys.executable, Path(__file__).with_name("inline_interrupted.py"), tmp_path / "a.db"]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200, "hardly any place was found"


def test_a_copy_of_the_file_demands_the_same(tmp_path: Path) -> None:
    with leftfold.open(f"sqlite:///{tmp_path}/log.db", APP) as es:
        es.append([moved(1, "a")])
    connection = apsw.Connection(f"{tmp_path}/log.db")
    connection.execute("VACUUM INTO ?", [f"{tmp_path}/copy.db"])
    connection.close()
    with (
        leftfold.open(f"sqlite:///{tmp_path}/copy.db", CODEC) as plain,
        pytest.raises(ProjectionRefused, match="balances"),
    ):
        plain.append([Event("bank-1", bank.Noted())])
