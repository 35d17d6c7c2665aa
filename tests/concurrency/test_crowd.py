"""Many callers handle commands on one account at once: each is decided on the true state, all of
them get through, and what they are told is what the log says.
"""

import asyncio
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from random import Random

import apsw
import crowd_worker as crowd
import pytest
from concurrent_worker import STUCK_S, Threads
from crowd_worker import OPTIONS, Account, Move, Told

import leftfold
from leftfold import EventStore, Metadata
from leftfold.testing.faults import seeds

CALLERS = 32
GAP_MAX = 8 * CALLERS
"""So many commits of others may come between two of a caller's own. In turns it would be 31."""

schemes = pytest.mark.parametrize("scheme", ["memory", "sqlite"])
options = pytest.mark.parametrize("options", OPTIONS)


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads take turns more often than they usually do, also in the middle of a function."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def check_all_done(es: EventStore, told: Sequence[Told], commands: int, decider) -> None:
    """Every caller got its answers, and they are the truth."""
    assert len(told) == commands
    accepted = [each for each in told if each.position]
    assert 0 < len(accepted) < commands, "some are accepted and some rejected, or it shows little"
    end = crowd.check(crowd.log_of(es), told)
    assert end == Account(len(accepted), sum(each.command.amount for each in accepted))
    loaded = es.load(decider, "one")
    assert (loaded.state, loaded.version) == (end, end.version)


@schemes
@options
def test_threads_decide_on_the_true_state(tmp_path, scheme, options):
    decider, cached = OPTIONS[options]
    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        url = crowd.url_of(scheme, tmp_path / f"{seed}")
        told: list[Told] = []
        with leftfold.open(url, crowd.CODEC, cached_states_max=cached) as es:

            def run(number: int, seed=seed, es=es, told=told) -> None:
                for command in islice(crowd.moves(f"{number}", seed), 15):
                    told.append(crowd.move(es, decider, command))

            Threads([lambda number=number: run(number) for number in range(CALLERS)]).join()
            check_all_done(es, told, CALLERS * 15, decider)


@schemes
@options
def test_tasks_decide_on_the_true_state(tmp_path, scheme, options):
    decider, cached = OPTIONS[options]

    async def run(es: leftfold.AsyncEventStore, caller: str, seed: int) -> list[Told]:
        told = []
        for command in islice(crowd.moves(caller, seed), 15):
            try:
                reply = await es.handle(decider, "one", command)
                told.append(Told(command, reply.state, reply.position))
            except crowd.Overdrawn as error:
                told.append(Told(command, error.state))
        return told

    async def run_all(url: str, seed: int) -> tuple[list[Told], list, Account]:
        async with await leftfold.aopen(url, crowd.CODEC, cached_states_max=cached) as es:
            async with asyncio.timeout(STUCK_S):
                answers = await asyncio.gather(*(run(es, f"{n}", seed) for n in range(CALLERS)))
            log = [event async for event in es.read()]
            return [told for each in answers for told in each], log, await es.state(decider, "one")

    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        told, log, state = asyncio.run(run_all(crowd.url_of(scheme, tmp_path / f"{seed}"), seed))
        assert len(told) == CALLERS * 15
        assert crowd.check(log, told) == state
        assert state.version == sum(each.position > 0 for each in told) > 0


def test_tasks_that_are_cancelled_hold_up_nobody(tmp_path):
    """Wherever it comes: at the load, in the line, at the append, which may yet be recorded."""

    async def patient(es: leftfold.AsyncEventStore, number: int, seed: int) -> list[Told]:
        wanted = [Move(f"patient {number}", step, 1) for step in range(15)]
        replies = [await es.handle(crowd.PLAIN, "one", command) for command in wanted]
        return [
            Told(command, reply.state, reply.position)
            for command, reply in zip(wanted, replies, strict=True)
        ]

    async def hasty(es: leftfold.AsyncEventStore, number: int, seed: int) -> list[Told]:
        random, told = Random(f"{seed} {number}"), []
        for step in range(15):
            command = Move(f"hasty {number}", step, 1)
            handling = asyncio.ensure_future(es.handle(crowd.PLAIN, "one", command))
            await asyncio.wait([handling], timeout=random.uniform(0, 0.01))
            handling.cancel()
            with suppress(asyncio.CancelledError):
                reply = await handling
                told.append(Told(command, reply.state, reply.position))
        return told

    async def run_all(url: str, seed: int) -> tuple[list[list[Told]], list]:
        async with await leftfold.aopen(url, crowd.CODEC, cached_states_max=2) as es:
            callers = [patient(es, n, seed) for n in range(8)]
            callers += [hasty(es, n, seed) for n in range(CALLERS - 8)]
            async with asyncio.timeout(STUCK_S):
                told = await asyncio.gather(*callers)
            assert not es._turns._lines, "somebody is still in line"
            return told, [event async for event in es.read()]

    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        told, log = asyncio.run(run_all(crowd.url_of("sqlite", tmp_path / f"{seed}"), seed))
        assert [len(each) for each in told[:8]] == [15] * 8
        crowd.check(log, [each for caller in told for each in caller])


def longest_gap(log: Sequence[leftfold.RecordedEvent[crowd.Moved]]) -> int:
    """How many commits of others came at most between two of the same caller."""
    places: dict[str, list[int]] = defaultdict(list)
    for event in log:
        places[event.data.caller].append(event.version)
    return max(after - before - 1 for each in places.values() for before, after in pairwise(each))


@schemes
def test_no_thread_starves(tmp_path, scheme):
    with leftfold.open(crowd.url_of(scheme, tmp_path), crowd.CODEC) as es:
        together = threading.Barrier(CALLERS, timeout=STUCK_S)

        def run(number: int) -> None:
            together.wait()
            for step in range(30):
                crowd.move(es, crowd.PLAIN, Move(f"{number}", step, 1))

        Threads([lambda number=number: run(number) for number in range(CALLERS)]).join()
        log = crowd.log_of(es)
    assert crowd.check(log, ()) == Account(CALLERS * 30, CALLERS * 30)
    assert longest_gap(log) <= GAP_MAX


def test_no_task_starves(tmp_path):
    """In memory nobody waits, so a task is never overtaken."""

    async def run(es: leftfold.AsyncEventStore, caller: str) -> None:
        for step in range(30):
            await es.handle(crowd.PLAIN, "one", Move(caller, step, 1))

    async def run_all() -> list[leftfold.RecordedEvent[crowd.Moved]]:
        url = crowd.url_of("sqlite", tmp_path)
        async with await leftfold.aopen(url, crowd.CODEC) as es:
            async with asyncio.timeout(STUCK_S):
                await asyncio.gather(*(run(es, f"{number}") for number in range(CALLERS)))
            return [event async for event in es.read()]

    log = asyncio.run(run_all())
    assert crowd.check(log, ()) == Account(CALLERS * 30, CALLERS * 30)
    assert longest_gap(log) <= GAP_MAX


@options
def test_threads_of_processes_decide_on_the_true_state(tmp_path, options):
    decider, cached = OPTIONS[options]
    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        url = crowd.url_of("sqlite", tmp_path / f"{seed}")
        with crowd.processes(
            *(("move", url, options, name, seed, 8, 12) for name in "abcd")
        ) as running:
            told = [each for lines in crowd.said_by_all(running) for each in crowd.heard(lines)]
            assert [process.wait(STUCK_S) for process in running] == [0, 0, 0, 0]
        answers = [each for each in told if each.state is not None]
        with leftfold.open(url, crowd.CODEC, cached_states_max=cached) as es:
            check_all_done(es, answers, CALLERS * 12, decider)


def killed_in_the_middle(url: str, seed: int, number: int, random: Random) -> list[Told]:
    """What two processes told, of which one was killed in the middle, and later the other."""
    arguments = [("move", url, "both", f"{number}.{name}", seed, 4, 0) for name in "ab"]
    with crowd.processes(*arguments) as (victim, survivor):
        lines = list(islice(victim.stdout, random.randrange(1, 400)))
        victim.kill()
        lines += victim.stdout
        # It goes on, whatever the other one held.
        others = list(islice(survivor.stdout, random.randrange(50, 200)))
        survivor.kill()
        others += survivor.stdout
    assert (victim.returncode, survivor.returncode) == (-9, -9), "one ended by itself"
    return crowd.heard(lines) + crowd.heard(others)


def test_a_process_that_is_killed_in_a_crowd_leaves_the_log_right(tmp_path):
    for seed in seeds(1):
        random = Random(seed)
        (tmp_path / f"{seed}").mkdir()
        path = tmp_path / f"{seed}"
        told: list[Told] = []
        for number in range(6):
            told += killed_in_the_middle(crowd.url_of("sqlite", path), seed, number, random)
            with leftfold.open(crowd.url_of("sqlite", path), crowd.CODEC) as es:
                end = crowd.check(crowd.log_of(es), told)
                # Neither do the snapshots that they left say anything else.
                assert es.state(crowd.KEEPING, "one") == es.state(crowd.PLAIN, "one") == end
        assert sum(each.position > 0 for each in told) > 6
        connection = apsw.Connection(str(path / "log.db"))
        assert connection.pragma("integrity_check") == "ok"
        connection.close()


@schemes
@options
def test_a_command_sent_by_many_at_once_is_done_once(tmp_path, scheme, options):
    decider, cached = OPTIONS[options]
    senders, others, rounds = 16, 8, 12
    together = threading.Barrier(senders, timeout=STUCK_S)
    replies: dict[int, list[leftfold.Handled[Account]]] = defaultdict(list)
    with leftfold.open(crowd.url_of(scheme, tmp_path), crowd.CODEC, cached_states_max=cached) as es:

        def send(number: int) -> None:
            for step in range(rounds):
                together.wait()
                # What is decided differs from sender to sender, and only one of it is recorded.
                command = Move(f"sender {number}", step, 1)
                metadata = Metadata(command_id=f"command {step}")
                replies[step].append(es.handle(decider, "one", command, metadata=metadata))

        def disturb(number: int) -> None:
            for step in range(rounds * 2):
                crowd.move(es, decider, Move(f"other {number}", step, 1))

        Threads(
            [lambda number=number: send(number) for number in range(senders)]
            + [lambda number=number: disturb(number) for number in range(others)]
        ).join()
        log = crowd.log_of(es)
        assert es.state(decider, "one") == crowd.check(log, ())
    assert len(log) == rounds + others * rounds * 2
    for step, each in replies.items():
        [recorded] = [event for event in log if event.metadata.command_id == f"command {step}"]
        assert len(each) == senders
        assert set(each) == {each[0]}
        assert each[0].events == (recorded.data,)
        assert (each[0].version, each[0].position) == (recorded.version, recorded.position)


@options
def test_a_command_sent_by_many_processes_at_once_is_done_once(tmp_path, options):
    decider, cached = OPTIONS[options]
    url = crowd.url_of("sqlite", tmp_path)
    arguments = [("repeat", url, options, name, 1, 4, 10) for name in "abcd"]
    with crowd.processes(*arguments) as running:
        told = [each for lines in crowd.said_by_all(running) for each in crowd.heard(lines)]
        assert [process.wait(STUCK_S) for process in running] == [0, 0, 0, 0]
    with leftfold.open(url, crowd.CODEC, cached_states_max=cached) as es:
        log = crowd.log_of(es)
        assert es.state(decider, "one") == crowd.check(log, ()) == Account(10, 10)
    for step in range(10):
        [event] = [event for event in log if event.metadata.command_id == f"{step}"]
        replies = [each for each in told if each.command.number == step]
        assert len(replies) == 4 * 4
        expected = (Account(event.version, event.version), event.position)
        assert {(each.state, each.position) for each in replies} == {expected}
