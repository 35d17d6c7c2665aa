"""What those who run and manage projections ask for: checked before anything is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from leftfold.errors import InvalidInput
from leftfold.projection.definition import Consumer, Subscriber
from leftfold.projection.parts import ProjectionParts


def to_run(parts: ProjectionParts, only: Iterable[str] | None) -> Sequence[Subscriber]:
    """The async projections and the consumers of the App, or those of these names. Raises
    InvalidInput where there is none, and for what cannot be run.
    """
    if only is None:
        found = [each for each in parts.subscribers if each.mode == "async"]
        if not found:
            raise InvalidInput(
                "there is nothing to run: the App has no async projection and no consumer; inline "
                "projections are kept by whoever appends, and live ones folded when they are read"
            )
    else:
        found = _named(parts, only)
    for each in found:
        _check_can_be_called(parts, each)
    return found


def _named(parts: ProjectionParts, only: Iterable[str]) -> list[Subscriber]:
    if isinstance(only, str) or not isinstance(only, Iterable):
        raise InvalidInput(f"only is a list of names, found {only!r}; put it in brackets")
    found = [parts.subscriber(each) for each in only]
    if not found:
        raise InvalidInput("only names nothing to run; leave it out to run everything")
    for each in found:
        if each.mode == "inline":
            raise InvalidInput(
                f"{each.name!r} is inline, which is not run: whoever opens the store with the App "
                "and appends keeps it"
            )
        if each.mode == "live":
            raise InvalidInput(
                f"{each.name!r} is live, which is not run: es.view(...) folds it when it is read"
            )
    return found


def _check_can_be_called(parts: ProjectionParts, found: Subscriber) -> None:
    is_async = isinstance(found, Consumer) and inspect.iscoroutinefunction(found.handle)
    if is_async and parts.driver.may_block:
        raise InvalidInput(
            f"handle of consumer {found.name!r} is a coroutine function, which needs "
            "leftfold.aopen and `async with es.running()`"
        )


def checked_share(share: object) -> tuple[int, int]:
    """The rest and the divisor of a share. Raises InvalidInput."""
    if isinstance(share, tuple) and len(share) == 2:
        rest, divisor = share
        if type(rest) is type(divisor) is int and 0 <= rest < divisor:
            return rest, divisor
    raise InvalidInput(f"a share is (0, 3), (1, 3) or (2, 3), for example; found {share!r}")


def checked_name(name: object) -> str:
    """The name of a projection or consumer. Raises InvalidInput for what is none."""
    if not isinstance(name, str):
        raise InvalidInput(f"a projection or consumer is asked for by its name, found {name!r}")
    return name


def check_is_time(what: str, seconds: object, most: float) -> None:
    """Refuse, with InvalidInput, what is no number of seconds from 0 to `most`."""
    # No comparison holds of a number that is none.
    if not isinstance(seconds, int | float) or not 0 <= seconds <= most:
        raise InvalidInput(f"{what} is from 0 to {most:.0f}, found {seconds!r}")


def check_is_reason(reason: object) -> None:
    """Refuse, with InvalidInput, what does not say why an event is skipped."""
    if not isinstance(reason, str) or not reason.strip() or "\0" in reason:
        raise InvalidInput(f"a skip is recorded with a reason, a text, found {reason!r}")
