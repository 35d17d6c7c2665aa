"""Running and managing projections, for people: each class has a twin for async code."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from leftfold.drive import run_sync
from leftfold.projection.catalog import Build
from leftfold.projection.comparing import Comparison
from leftfold.projection.managing import COMPARE_S, Managing
from leftfold.projection.running import Running
from leftfold.projection.status import ProjectionStatus, QuarantinedKey


class Runner:
    """Runs projections and consumers in threads while a `with` block lasts."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def start(self) -> None:
        """Begin. Raises StoreUnavailable, ProjectionRefused, InvalidInput."""
        run_sync(self._running.start())

    def stop(self) -> None:
        """Let each finish its batch, and leave it to others. Stopping twice is harmless."""
        run_sync(self._running.stop())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class AsyncRunner:
    """Runs projections and consumers in tasks while an `async with` block lasts."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def start(self) -> None:
        """Begin. Raises StoreUnavailable, ProjectionRefused, InvalidInput."""
        await self._running.start()

    async def stop(self) -> None:
        """Let each finish its batch, and leave it to others. Stopping twice is harmless."""
        await self._running.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


class Projections:
    """What can be asked and done about the projections and consumers of an App, and about what is
    kept of those that it no longer has. Each change is one transaction.

    Every method also raises StoreUnavailable and StoreClosed.
    """

    def __init__(self, managing: Managing) -> None:
        self._managing = managing

    def status(self, name: str | None = None) -> list[ProjectionStatus]:
        """How each build is, of all projections and consumers or of one. Raises InvalidInput for
        unknown names.
        """
        return run_sync(self._managing.status(name))

    def quarantine(self, name: str) -> list[QuarantinedKey]:
        """The keys whose events wait, and why. Raises InvalidInput for unknown names."""
        return run_sync(self._managing.quarantine(name))

    def rebuild(self, name: str, *, partitions: int = 1, events_per_s_max: int = 0) -> Build:
        """Begin a build beside the one that serves, for runners to fold.

        Each of its `partitions` has an owner, so as many workers can share it; `events_per_s_max`
        throttles each, 0 does not. Raises InvalidInput for what has no rows of its own or no keys
        to be divided by, ProjectionRefused while there is one already.
        """
        return run_sync(
            self._managing.rebuild(name, partitions=partitions, events_per_s_max=events_per_s_max)
        )

    def compare(self, name: str, *, timeout_s: float = COMPARE_S) -> Comparison:
        """What differs between the build that serves and the one to be swapped in, or else the one
        that a rollback would bring back.

        Both are held at one position meanwhile, if their owners get there within `timeout_s`
        seconds; `is_aligned` says so. Raises InvalidInput, and ProjectionRefused where there is
        only one build.
        """
        return run_sync(self._managing.compare(name, timeout_s=timeout_s))

    def swap(self, name: str) -> Build:
        """Let the build that is complete serve, in place of the one that does, which is kept for a
        rollback. Readers see no moment without rows, nor older ones.

        Raises InvalidInput, and ProjectionRefused where no build is complete.
        """
        return run_sync(self._managing.swap(name))

    def rollback(self, name: str) -> Build:
        """Let the build serve again that did before the last swap. While somebody folds it, readers
        see no older rows than before; otherwise it serves however far it is.

        Raises InvalidInput, and ProjectionRefused where there is none.
        """
        return run_sync(self._managing.rollback(name))

    def retry(self, name: str, *, key: Any = None) -> int:
        """Let what is stopped or in quarantine be tried again, or one key only: a value, or a
        tuple. Returns how many go on. Raises InvalidInput, and ProjectionRefused where none is.
        """
        return run_sync(self._managing.retry(name, key=key))

    def skip(self, name: str, position: int, *, reason: str, key: Any = None) -> int:
        """Pass over the event at `position` for the keys that it failed for, or for one of them,
        now and whenever this version is built again. The reason is recorded.

        Returns how many go on. Raises InvalidInput, and ProjectionRefused where no event failed
        there.
        """
        return run_sync(self._managing.skip(name, position, reason=reason, key=key))

    def drop(self, name: str, *, build: int | None = None) -> list[Build]:
        """Delete one build that does not serve; or all there is of a name, checkpoints included,
        also where the App no longer has it. Returns what was dropped.

        Raises InvalidInput for unknown ones, and ProjectionRefused for the build that serves.
        """
        return run_sync(self._managing.drop(name, build=build))


class AsyncProjections:
    """What can be asked and done about the projections and consumers of an App, and about what is
    kept of those that it no longer has. Each change is one transaction.

    Every method also raises StoreUnavailable and StoreClosed.
    """

    def __init__(self, managing: Managing) -> None:
        self._managing = managing

    async def status(self, name: str | None = None) -> list[ProjectionStatus]:
        """How each build is, of all projections and consumers or of one. Raises InvalidInput for
        unknown names.
        """
        return await self._managing.status(name)

    async def quarantine(self, name: str) -> list[QuarantinedKey]:
        """The keys whose events wait, and why. Raises InvalidInput for unknown names."""
        return await self._managing.quarantine(name)

    async def rebuild(self, name: str, *, partitions: int = 1, events_per_s_max: int = 0) -> Build:
        """Begin a build beside the one that serves, for runners to fold.

        Each of its `partitions` has an owner, so as many workers can share it; `events_per_s_max`
        throttles each, 0 does not. Raises InvalidInput for what has no rows of its own or no keys
        to be divided by, ProjectionRefused while there is one already.
        """
        return await self._managing.rebuild(
            name, partitions=partitions, events_per_s_max=events_per_s_max
        )

    async def compare(self, name: str, *, timeout_s: float = COMPARE_S) -> Comparison:
        """What differs between the build that serves and the one to be swapped in, or else the one
        that a rollback would bring back.

        Both are held at one position meanwhile, if their owners get there within `timeout_s`
        seconds; `is_aligned` says so. Raises InvalidInput, and ProjectionRefused where there is
        only one build.
        """
        return await self._managing.compare(name, timeout_s=timeout_s)

    async def swap(self, name: str) -> Build:
        """Let the build that is complete serve, in place of the one that does, which is kept for a
        rollback. Readers see no moment without rows, nor older ones.

        Raises InvalidInput, and ProjectionRefused where no build is complete.
        """
        return await self._managing.swap(name)

    async def rollback(self, name: str) -> Build:
        """Let the build serve again that did before the last swap. While somebody folds it, readers
        see no older rows than before; otherwise it serves however far it is.

        Raises InvalidInput, and ProjectionRefused where there is none.
        """
        return await self._managing.rollback(name)

    async def retry(self, name: str, *, key: Any = None) -> int:
        """Let what is stopped or in quarantine be tried again, or one key only: a value, or a
        tuple. Returns how many go on. Raises InvalidInput, and ProjectionRefused where none is.
        """
        return await self._managing.retry(name, key=key)

    async def skip(self, name: str, position: int, *, reason: str, key: Any = None) -> int:
        """Pass over the event at `position` for the keys that it failed for, or for one of them,
        now and whenever this version is built again. The reason is recorded.

        Returns how many go on. Raises InvalidInput, and ProjectionRefused where no event failed
        there.
        """
        return await self._managing.skip(name, position, reason=reason, key=key)

    async def drop(self, name: str, *, build: int | None = None) -> list[Build]:
        """Delete one build that does not serve; or all there is of a name, checkpoints included,
        also where the App no longer has it. Returns what was dropped.

        Raises InvalidInput for unknown ones, and ProjectionRefused for the build that serves.
        """
        return await self._managing.drop(name, build=build)
