"""The test kit, for users and for those who write a store. Needs `pip install 'leftfold[testing]'`.

- `given`: tests of one decision, as sentences: given events, when a command, then events.
- `given_process`: tests of a process, as sentences, with time.
- `decider_machine`: random commands for a decider, through the real `handle` (Hypothesis).
- `StoreConformance`: the contract of `leftfold.store.Store` as tests, a class for each guarantee.
- `StoreMachine`: random operations on a store, compared with the memory store (Hypothesis).
- `HonoursNothing`: a store that keeps no promise, to show that each test of a suite can fail.
- `leftfold.testing.history`: checks what concurrent writers and readers saw.
- `leftfold.testing.faults`: an SQLite VFS that cuts the power, fills the disk and fails syncs.
"""

from leftfold.errors import MissingExtra

try:
    from leftfold.testing.conformance import StoreConformance
    from leftfold.testing.deciders import decider_machine
    from leftfold.testing.dishonest import HonoursNothing
    from leftfold.testing.machine import StoreMachine
    from leftfold.testing.processes import given_process
    from leftfold.testing.scenario import given
except ImportError as error:
    raise MissingExtra("testing", "leftfold.testing") from error

__all__ = [
    "HonoursNothing",
    "StoreConformance",
    "StoreMachine",
    "decider_machine",
    "given",
    "given_process",
]
