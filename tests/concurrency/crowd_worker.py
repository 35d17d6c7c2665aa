"""A crowd on one account: what its callers do, what they are told, and whether that was true.

Each event says on what state it was decided, so the log shows whether that was the true one. Run as
a process with: `move` or `repeat`, URL, options, name, seed, threads, steps. It says when it is
ready, and begins when it reads a line; each thing that a caller is told goes to stdout as a line.
With 0 steps it goes on until it is killed. With `repeat` all callers of all processes send the same
command ids.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from random import Random

import msgspec
from concurrent_worker import Threads
from msgspec import Struct

import leftfold
from leftfold import Codec, Decider, EventStore, Metadata, RecordedEvent, Snapshots, select
from leftfold.event import NO_METADATA


class Move(Struct, frozen=True):
    """The command to move an amount to the account, or from it."""

    caller: str
    number: int
    amount: int


class Moved(Struct, frozen=True):
    caller: str
    number: int
    amount: int
    seen_version: int
    """How many events the state had on which this was decided."""
    seen_balance: int


class Account(Struct, frozen=True):
    version: int = 0
    balance: int = 0


class Overdrawn(Exception):
    def __init__(self, state: Account) -> None:
        super().__init__(f"only {state.balance} is left")
        self.state = state


class Told(Struct, frozen=True):
    """What a caller was told of a command. Before that, that it was sent: then there is no
    state.
    """

    command: Move
    state: Account | None = None
    position: int = 0
    """Of the event; 0 where the command was rejected."""


def decide(command: Move, state: Account) -> list[Moved]:
    if state.balance + command.amount < 0:
        raise Overdrawn(state)
    seen = (state.version, state.balance)
    return [Moved(command.caller, command.number, command.amount, *seen)]


def evolve(state: Account, moved: Moved) -> Account:
    return Account(state.version + 1, state.balance + moved.amount)


CODEC = Codec(Moved)
PLAIN = Decider("account", initial_state=Account(), decide=decide, evolve=evolve)
KEEPING = Decider(
    "account",
    initial_state=Account(),
    decide=decide,
    evolve=evolve,
    snapshots=Snapshots(every=7),
)
OPTIONS: dict[str, tuple[Decider[Move, Account, Moved], int]] = {
    "plain": (PLAIN, 0),
    "snapshots": (KEEPING, 0),
    "cached": (PLAIN, 2),
    "both": (KEEPING, 2),
}
"""The decider, and how many states are cached."""


def url_of(scheme: str, path: os.PathLike[str]) -> str:
    # Patience, for a machine that has little time for each of so many callers.
    return "memory://" if scheme == "memory" else f"sqlite:///{path}/log.db?busy_timeout_s=100"


def moves(caller: str, seed: int) -> Iterator[Move]:
    """What a caller wants, for ever. The account is often empty, so that some of it is rejected."""
    random = Random(f"{seed} {caller}")
    for number in count():
        yield Move(caller, number, random.choice([-7, -3, -2, 1, 2, 5]))


def move(
    es: EventStore,
    decider: Decider[Move, Account, Moved],
    command: Move,
    metadata: Metadata = NO_METADATA,
) -> Told:
    try:
        reply = es.handle(decider, "one", command, metadata=metadata)
    except Overdrawn as error:
        return Told(command, error.state)
    assert reply.version == reply.state.version
    return Told(command, reply.state, reply.position)


def check(log: Iterable[RecordedEvent[Moved]], told: Iterable[Told]) -> Account:
    """Raise AssertionError unless each event was decided on the true state, and each caller was
    told the truth. The state at the end.
    """
    states = [Account()]
    places: dict[tuple[str, int], RecordedEvent[Moved]] = {}
    for event in log:
        moved, before = event.data, states[-1]
        seen = Account(moved.seen_version, moved.seen_balance)
        assert seen == before, f"version {event.version} was decided on {seen}, not on {before}"
        assert event.version == before.version + 1
        states.append(evolve(before, moved))
        assert states[-1].balance >= 0, f"the account is overdrawn at version {event.version}"
        key = (moved.caller, moved.number)
        assert key not in places, f"{key} is there twice"
        places[key] = event
    for each in told:
        event = places.get((each.command.caller, each.command.number))
        _check_told(each, event, states)
    return states[-1]


def _check_told(each: Told, event: RecordedEvent[Moved] | None, states: list[Account]) -> None:
    if each.state is None:
        return
    assert states[each.state.version] == each.state, f"there never was {each.state}: {each}"
    if each.position:
        assert event is not None, f"acknowledged, and not there: {each}"
        assert (event.version, event.position) == (each.state.version, each.position), each
        assert event.data.amount == each.command.amount
    else:
        assert event is None, f"rejected, and yet it is there: {each}"
        assert each.state.balance + each.command.amount < 0, f"rejected without a reason: {each}"


def log_of(es: EventStore) -> list[RecordedEvent[Moved]]:
    return list(es.read(select("account-one")))


Process = subprocess.Popen[bytes]


@contextmanager
def processes(*arguments: Sequence[object], script: str = __file__) -> Iterator[list[Process]]:
    """Workers that begin together, so that they do meet."""
    with ExitStack() as stack:
        started = []
        for each in arguments:
            command = [sys.executable, script, *map(str, each)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            started.append(stack.enter_context(process))
            # Nobody is left running, whatever fails here.
            stack.callback(process.kill)
        for process in started:
            assert process.stdout.readline() == b"ready\n"
        for process in started:
            process.stdin.write(b"begin\n")
            process.stdin.flush()
        yield started


def said_by_all(running: Sequence[Process]) -> list[list[bytes]]:
    """Everything that each says until it ends, read from all of them at the same time."""
    lines: list[list[bytes]] = [[] for _ in running]

    def read(number: int) -> None:
        lines[number] += running[number].stdout

    Threads([lambda number=number: read(number) for number in range(len(running))]).join()
    return lines


_mutex = threading.Lock()


def tell(told: Struct) -> None:
    line = msgspec.json.encode(told) + b"\n"
    with _mutex:
        while line:
            line = line[os.write(1, line) :]


def heard(lines: Iterable[bytes]) -> list[Told]:
    """What the lines say. A killed process may have left the last one half."""
    decode = msgspec.json.Decoder(Told).decode
    return [decode(line) for line in lines if line.endswith(b"\n")]


def main(role: str, url: str, options: str, name: str, *numbers: str) -> None:
    seed, threads, steps = map(int, numbers)
    decider, cached = OPTIONS[options]
    with leftfold.open(url, CODEC, cached_states_max=cached) as es:
        os.write(1, b"ready\n")
        sys.stdin.readline()

        def run(number: int) -> None:
            for command in islice(moves(f"{name}.{number}", seed), steps or None):
                tell(Told(command))
                tell(move(es, decider, command))

        def repeat(number: int) -> None:
            for step in range(steps):
                command, metadata = (
                    Move(f"{name}.{number}", step, 1),
                    Metadata(command_id=f"{step}"),
                )
                tell(move(es, decider, command, metadata))

        act = repeat if role == "repeat" else run
        Threads([lambda number=number: act(number) for number in range(threads)]).join()


if __name__ == "__main__":
    main(*sys.argv[1:])
