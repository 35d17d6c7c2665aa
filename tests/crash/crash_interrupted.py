"""A process that interrupts itself with SIGINT in the middle of its appends and reads.

Run with: file, seed, interrupts. Prints every attempt; exits with an error if the store cannot be
used after an interrupt.
"""

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


def main(path: str, seed: int, interrupts: int) -> None:
    rng = random.Random(seed)
    events = leftfold.open(f"sqlite:///{path}")
    interrupter = Interrupter(seed)
    for _ in range(ATTEMPTS_MAX):
        if interrupter.hits >= interrupts:
            break
        names = [f"stream-{rng.randrange(5)}" for _ in range(rng.choice((1, 4)))]
        new = [Event(name, b"x" * 500, type="A", tags=(f"n:{rng.randrange(3)}",)) for name in names]
        hits = interrupter.hits
        append(events, new, interrupter)
        if interrupter.hits > hits:
            # Nothing of the interrupted call is left: the next one works, and the repeat too.
            tell(Attempt.of(new, (), events.append(new)))
    assert interrupter.hits >= interrupts, "hardly any interrupt hit"
    events.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
