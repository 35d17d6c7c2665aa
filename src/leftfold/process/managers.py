"""Looking after processes, for people: each class has a twin for async code."""

from __future__ import annotations

from leftfold.drive import run_sync
from leftfold.process.instance import Instance
from leftfold.process.repairing import LIST_INSTANCES, InstanceStatus, Repairing
from leftfold.process.stepping import Cancel, Skip


class Processes:
    """What can be asked and done about the processes of an App. What is done is recorded in the
    stream of the instance, with the actor; a runner carries it out.

    Every method also raises InvalidInput for unknown processes and instances, StoreUnavailable and
    StoreClosed.
    """

    def __init__(self, repairing: Repairing) -> None:
        self._repairing = repairing

    def list(
        self,
        process: str | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_INSTANCES,
    ) -> list[InstanceStatus]:
        """How the instances are, of all processes or of one, and only those of a status: running,
        compensating, stuck, done, compensated or cancelled. As far as a runner has read.
        """
        return run_sync(self._repairing.instances(process, status, limit))

    def show(self, process: str, key: str) -> Instance:
        """An instance as it is now: its state, steps, timers, and what waits."""
        return run_sync(self._repairing.show(process, key))

    def retry(self, process: str, key: str, *, actor: str) -> Instance:
        """Try again what an instance is stuck at, and go on with what waits.

        Raises InvalidInput where it is not stuck.
        """
        return run_sync(self._repairing.retry(process, key, actor))

    def skip(self, process: str, key: str, *, reason: str, actor: str, step: str = "") -> Instance:
        """Go on without what an instance is stuck at, or without a step that it waits for.

        Raises InvalidInput where it does not wait for that.
        """
        return run_sync(self._repairing.skip(process, key, Skip(step, reason, actor)))

    def cancel(
        self, process: str, key: str, *, reason: str, actor: str, compensate: bool = True
    ) -> Instance:
        """End an instance: after its steps were taken back, or at once.

        Raises InvalidInput where it has ended.
        """
        order = Cancel(reason, actor, compensate)
        return run_sync(self._repairing.cancel(process, key, order))


class AsyncProcesses:
    """What can be asked and done about the processes of an App. What is done is recorded in the
    stream of the instance, with the actor; a runner carries it out.

    Every method also raises InvalidInput for unknown processes and instances, StoreUnavailable and
    StoreClosed.
    """

    def __init__(self, repairing: Repairing) -> None:
        self._repairing = repairing

    async def list(
        self,
        process: str | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_INSTANCES,
    ) -> list[InstanceStatus]:
        """How the instances are, of all processes or of one, and only those of a status: running,
        compensating, stuck, done, compensated or cancelled. As far as a runner has read.
        """
        return await self._repairing.instances(process, status, limit)

    async def show(self, process: str, key: str) -> Instance:
        """An instance as it is now: its state, steps, timers, and what waits."""
        return await self._repairing.show(process, key)

    async def retry(self, process: str, key: str, *, actor: str) -> Instance:
        """Try again what an instance is stuck at, and go on with what waits.

        Raises InvalidInput where it is not stuck.
        """
        return await self._repairing.retry(process, key, actor)

    async def skip(
        self, process: str, key: str, *, reason: str, actor: str, step: str = ""
    ) -> Instance:
        """Go on without what an instance is stuck at, or without a step that it waits for.

        Raises InvalidInput where it does not wait for that.
        """
        return await self._repairing.skip(process, key, Skip(step, reason, actor))

    async def cancel(
        self, process: str, key: str, *, reason: str, actor: str, compensate: bool = True
    ) -> Instance:
        """End an instance: after its steps were taken back, or at once.

        Raises InvalidInput where it has ended.
        """
        return await self._repairing.cancel(process, key, Cancel(reason, actor, compensate))
