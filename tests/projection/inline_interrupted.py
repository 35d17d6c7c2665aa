"""A process that interrupts appends with inline projections at every bytecode, one after the other.

Run with: file. Prints how many interrupts there were.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from inline_worker import APP, check, moved

import leftfold

STUCK_S = 60
"""After so long this process says where it is stuck, and exits."""
PLACES_MAX = 20_000
OURS = Path(leftfold.__file__).parent
SOURCES = tuple(str(OURS / each) for each in ("stores", "projection/inline", "projection/folding"))


class Interrupt:
    """Raises KeyboardInterrupt before the `nth` bytecode of SOURCES."""

    def __init__(self, nth: int) -> None:
        self.places_left = nth

    def __call__(self, frame: FrameType, what: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes = True
        if what == "opcode":
            self.places_left -= 1
            if not self.places_left:
                raise KeyboardInterrupt
        return self


def main(path: str) -> None:
    es = leftfold.open(f"sqlite:///{path}?durability=may_lose_latest", APP)
    es.append([moved(1, "a")])
    for nth in range(1, PLACES_MAX):
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        new = [moved(1, "a", "b")]
        interrupt = Interrupt(nth)
        with suppress(KeyboardInterrupt):
            sys.settrace(interrupt)
            es.append(new)
        sys.settrace(None)
        es.append(new)
        row = es.view(APP.projections[0]).get("a")
        assert row
        assert row.moves == nth + 1, nth
        if interrupt.places_left > 0:
            check(es)
            print(nth - 1)
            return
    raise AssertionError("there is no end")


if __name__ == "__main__":
    main(sys.argv[1])
