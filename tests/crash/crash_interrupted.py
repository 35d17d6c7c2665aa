"""A process that interrupts itself with SIGINT in the middle of its appends and reads.

Run with: file, seed, interrupts of appends, interrupts of reads. Prints every attempt; exits with
an error if the store cannot be used after an interrupt.
"""

import faulthandler
import random
import signal
import sys
import threading
import time

from crash_writer import tell

import leftfold
from leftfold import Event, EventStore, select
from leftfold.testing.history import Attempt

ATTEMPTS_MAX = 100_000
STUCK_S = 60
"""After so long this process says where it is stuck, and exits."""


class Interrupter:
    """Sends SIGINT at random moments. One sent while not `armed` is ignored, so that it cannot hit
    the test itself.
    """

    def __init__(self, seed: int) -> None:
        self.armed = False
        self.hits = 0
        self._random = random.Random(seed)
        self._main = threading.main_thread()
        signal.signal(signal.SIGINT, self._interrupt)
        threading.Thread(target=self._run, daemon=True).start()

    def _interrupt(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            self.hits += 1
            raise KeyboardInterrupt

    def _run(self) -> None:
        while True:
            time.sleep(self._random.random() * 0.002)
            signal.pthread_kill(self._main.ident, signal.SIGINT)


def append(events: EventStore, new: list[Event[bytes]], interrupter: Interrupter) -> None:
    tell(Attempt.of(new))
    try:
        interrupter.armed = True
        appended = events.append(new)
        list(events.read(select(tags=["n:1"]), backwards=True, limit=3))
        list(events.read(limit=3))
        interrupter.armed = False
    except KeyboardInterrupt:
        return
    tell(Attempt.of(new, (), appended))


def read_until_interrupted(events: EventStore, interrupter: Interrupter) -> None:
    """Short reads, so that many interrupts come where a read begins or ends."""
    try:
        interrupter.armed = True
        while True:
            events.head()
            list(events.read(select("stream-1"), backwards=True, limit=1))
    except KeyboardInterrupt:
        return


def main(path: str, seed: int, append_interrupts: int, read_interrupts: int) -> None:
    rng = random.Random(seed)
    events = leftfold.open(f"sqlite:///{path}")
    interrupter = Interrupter(seed)
    for _ in range(ATTEMPTS_MAX):
        if interrupter.hits >= append_interrupts:
            break
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        names = [f"stream-{rng.randrange(5)}" for _ in range(rng.choice((1, 4)))]
        new = [Event(name, b"x" * 500, type="A", tags=(f"n:{rng.randrange(3)}",)) for name in names]
        hits = interrupter.hits
        append(events, new, interrupter)
        if interrupter.hits > hits:
            # Nothing of the interrupted call is left: the next one works, and the repeat too.
            tell(Attempt.of(new, (), events.append(new)))
    assert interrupter.hits >= append_interrupts, "hardly any interrupt hit"
    for _ in range(read_interrupts):
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        read_until_interrupted(events, interrupter)
        new = [Event("after-read", b"{}", type="A")]
        tell(Attempt.of(new, (), events.append(new)))
    events.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
