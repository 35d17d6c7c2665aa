"""Process managers: events in; commands, events and timers out."""

from leftfold.process.definition import ProcessManager
from leftfold.process.events import NoAnswer, StepDone, StepRejected, StepSkipped, TimerFired
from leftfold.process.instance import Instance
from leftfold.process.outputs import (
    Answered,
    Call,
    CancelTimer,
    Compensate,
    Declined,
    Done,
    Output,
    Send,
    Timer,
)

__all__ = [
    "Answered",
    "Call",
    "CancelTimer",
    "Compensate",
    "Declined",
    "Done",
    "Instance",
    "NoAnswer",
    "Output",
    "ProcessManager",
    "Send",
    "StepDone",
    "StepRejected",
    "StepSkipped",
    "Timer",
    "TimerFired",
]
