"""A process that appends for as long as it lives, and tells its parent of every attempt.

Run with: file, name, seed, threads. Each attempt goes to stdout as a line before and after it.
"""

import base64
import os
import pickle
import sys
import threading
from collections.abc import Iterable

import leftfold
from leftfold.testing.history import Attempt, RandomWriter

_mutex = threading.Lock()


def tell(attempt: Attempt) -> None:
    line = base64.b64encode(pickle.dumps(attempt)) + b"\n"
    with _mutex:
        while line:
            line = line[os.write(1, line) :]


def told(lines: Iterable[bytes]) -> list[Attempt]:
    """What the lines say. A killed process may have left the last one half."""
    return [pickle.loads(base64.b64decode(line)) for line in lines if line.endswith(b"\n")]


def main(path: str, name: str, seed: int, threads: int) -> None:
    events = leftfold.open(f"sqlite:///{path}")

    def append_for_ever(number: int) -> None:
        writer = RandomWriter(events, f"{name}.{number}", seed, tell)
        while True:
            writer.step()

    for number in range(1, threads):
        threading.Thread(target=append_for_ever, args=(number,), daemon=True).start()
    append_for_ever(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
