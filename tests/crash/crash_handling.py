"""A process that handles commands while signals interrupt it: file, seed, interrupts.

It ends with a sum that it prints, once another thread and a new store have handled one as well.
"""

import faulthandler
import random
import signal
import sys
import threading
from contextlib import suppress

from msgspec import Struct

import leftfold
from leftfold import Codec, Decider, Event, Metadata, Snapshots

STUCK_S = 60
"""After so long without progress this process says where it is stuck, and exits."""
HANDLED_MIN = 20


class Added(Struct, frozen=True):
    number: int


def decide(number: int, total: int) -> list[Event[Added]]:
    return [Event("", Added(number))]


counter = Decider(
    "counter",
    initial_state=0,
    decide=decide,
    evolve=lambda total, event: total + event.number,
    snapshots=Snapshots(every=1),
)


def main(path: str, seed: int, interrupts: int) -> None:
    rng = random.Random(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An alarm may still be on its way when its timer is stopped, as another thread may get it.
    armed: list[bool] = []
    signal.signal(signal.SIGALRM, lambda *_: armed and signal.raise_signal(signal.SIGINT))
    url = f"sqlite:///{path}?durability=may_lose_latest"
    handled = 0
    with leftfold.open(url, Codec(Added), cached_states_max=2) as es:
        number = 0
        while interrupts > 0 or handled < HANDLED_MIN:
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
            number += 1
            sent = Metadata(command_id=f"c-{number}")
            try:
                if interrupts > 0:
                    armed.append(True)
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.001))
                es.handle(counter, number % 3, 1, metadata=sent)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts -= 1
            # Delivered again, whatever came of it: each command counts once.
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0)
                armed.clear()
            es.handle(counter, number % 3, 1, metadata=sent)
            handled += 1
        thread = threading.Thread(target=es.handle, args=(counter, 0, 1))
        thread.start()
        thread.join()
    with leftfold.open(url, Codec(Added)) as es:
        es.handle(counter, 1, 1)
        total = sum(es.state(counter, id) for id in range(3))
        assert total == es.head() == number + 2
    print(total)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
