"""A store does not follow its process into a fork, and ids do not repeat there.

Forks happen in processes of their own, which have no threads but the store's.
"""

import json
import subprocess
import sys
from pathlib import Path

import apsw

import leftfold
from leftfold.testing.history import check

_USE_IN_CHILD = """
import json, os, signal, sys, warnings
import leftfold
from leftfold import Event, select
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.testing.faults import FaultyVfs

# Forking beside a writer thread is what is tested; newer Pythons warn of it.
warnings.simplefilter("ignore", DeprecationWarning)
vfs = FaultyVfs()
events = leftfold.EventStore(SqliteStore(sys.argv[1], SqliteOptions(vfs=vfs.name)))
events.append([Event("before", b"{}", type="A")])
subscription = events.subscribe()
next(subscription)
reading = events.read(limit=1000)

USES = {
    "append": lambda: events.append([Event("child", b"{}", type="A")]),
    "read": lambda: list(events.read()),
    "read one stream": lambda: list(events.read(select("before"))),
    "read begun before": lambda: list(reading),
    "head": events.head,
}

def use_in_child():
    signal.alarm(60)  # whatever goes wrong, no child outlives the test for long
    refused = []
    for name, use in USES.items():
        try:
            use()
        except leftfold.StoreClosed as error:
            assert str(os.getppid()) in str(error)
            refused.append(name)
    assert refused == list(USES), refused
    assert list(subscription) == []
    events.close()

def report(status):
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
"""

_CHILD_ENDS_LIKE_ANY_PROGRAM = (
    _USE_IN_CHILD
    + """
for number in range(3):
    pid = os.fork()
    if pid == 0:
        use_in_child()
        sys.exit(0)  # with all of Python's cleaning up
    events.append([Event("meanwhile", b"{}", type="A")])
    report(os.waitpid(pid, 0)[1])
    events.append([Event("after", b"{}", type="A")])
"""
)

_FORK_IN_THE_MIDDLE_OF_A_COMMIT = (
    _USE_IN_CHILD
    + """
def fork(path):
    vfs.on_sync = None
    pid = os.fork()
    if pid == 0:
        try:
            use_in_child()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)  # the child of an unfinished call into SQLite
    report(os.waitpid(pid, 0)[1])

for number in range(6):
    vfs.on_sync = fork
    events.append([Event("after", b"{}", type="A")])
    assert vfs.on_sync is None
"""
)

_IDS = """
import json, os, sys, time
from leftfold import new_id

# A clock that stands still: the time alone must not be what tells the ids apart.
time.time_ns = lambda: 1_700_000_000_000_000_000

children = []
ids = [str(new_id()) for _ in range(100)]
for number in range(4):
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        with os.fdopen(write_end, "w") as pipe:
            json.dump([str(new_id()) for _ in range(500)], pipe)
        os._exit(0)
    os.close(write_end)
    children.append(read_end)
    ids += [str(new_id()) for _ in range(500)]
for read_end in children:
    with os.fdopen(read_end) as pipe:
        ids += json.load(pipe)
    os.wait()
print(json.dumps(ids))
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def streams(path: Path) -> list[str]:
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    connection.close()
    with leftfold.open(f"sqlite:///{path}") as events:
        log = list(events.read())
    check(log)
    return [event.stream for event in log]


def test_a_store_is_closed_in_a_forked_child_and_open_in_its_parent(tmp_path):
    path = tmp_path / "log.db"
    run(_CHILD_ENDS_LIKE_ANY_PROGRAM, path)

    assert streams(path) == ["before", *["meanwhile", "after"] * 3]


def test_a_fork_in_the_middle_of_a_commit_neither_hangs_nor_writes(tmp_path):
    path = tmp_path / "log.db"
    run(_FORK_IN_THE_MIDDLE_OF_A_COMMIT, path)

    assert streams(path) == ["before", *["after"] * 6]


def test_forked_processes_never_make_the_same_ids():
    ids = json.loads(run(_IDS))

    assert len(ids) == 100 + 8 * 500
    assert len(set(ids)) == len(ids)
