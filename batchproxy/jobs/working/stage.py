"""The work that is not items: the validation of a job, and its end.

Knows: one lease, the steps of the end. Must not know: what a kind does in them.
"""

from __future__ import annotations

import asyncio
import logging

from ..store import Claim, Job, Kind, LeaseLost, NotFound, StoreError, WrongState
from .holds import Hold
from .kinds import Failed, Finish, JobKind, Unready
from .outages import patiently
from .tools import Tools

logger = logging.getLogger("batchproxy")

_LATER = 30.0
_SOON = 1.0
_TRIES = 10
_LONG_ENOUGH = 300.0
"""So often and so long the end of a job is tried whose contents are not there: a folder may come back."""


class StageWork:
    """`run` it in a task. Each step can be done again by the next worker, so that it is broken off when need be."""

    def __init__(self, claim: Claim, asked: float, tools: Tools) -> None:
        self.hold = Hold(claim, asked)
        self._tools = tools
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"StageWork({self.hold!r})"

    def drain(self) -> None:
        """It goes on: it is not long."""

    def stop(self) -> None:
        """The job is to end; an end is not stopped by that."""
        if self.hold.lease.kind is Kind.VALIDATE:
            self.cut()

    def lose(self) -> None:
        if not self.hold.is_lost:
            lease = self.hold.lease
            logger.warning("lease.lost job=%s stage=%s epoch=%d", lease.job, lease.kind.name, lease.epoch)
            self.hold.lose()
            self.cut()

    def cut(self) -> None:
        if self._steps is not None:
            self._steps.cancel()

    async def run(self) -> None:
        lease = self.hold.lease
        delay = _LATER
        self._steps = self._loop.create_task(self._work(), name="batchproxy stage of a job")
        try:
            await asyncio.wait([self._steps])
            self._steps.result()
        except asyncio.CancelledError:
            delay = 0.0
        except (LeaseLost, WrongState):
            pass  # somebody else has it, or it is over
        except NotFound as error:
            logger.warning("stage.left job=%s stage=%s %s", lease.job, lease.kind.name, error)
        except Unready as error:
            logger.warning("stage.unready job=%s stage=%s %s", lease.job, lease.kind.name, error)
            delay = error.delay
        except StoreError as error:
            logger.warning("stage.left job=%s stage=%s code=%s %s", lease.job, lease.kind.name, error.code, error)
            delay = _SOON
        except Exception:
            logger.exception("stage.left job=%s stage=%s", lease.job, lease.kind.name)
        finally:
            await self._close(delay)

    async def _work(self) -> None:
        store, claim = self._tools.store, self.hold.claim
        job = await self._ask_job()
        kind = self._tools.kinds.get(job.kind)
        if kind is None:
            raise Unready(f"This worker knows no jobs of the kind {job.kind!r}.")
        if claim.lease.kind is Kind.VALIDATE:
            failed = await self._validated(kind, job)
            if failed is not None:
                await self._fail(failed)
            return
        if job.counts.done < job.total or not job.total:
            await patiently(lambda: store.ending.settle_rest(claim.lease), lambda: not self.hold.is_over)
            job = await self._ask_job()
        try:
            said = await kind.finish(store, claim, job)
        except NotFound as error:
            if not self._has_tried(job):
                raise
            logger.error("stage.failed job=%s code=%s %s", job.id, error.code, error)
            await self._fail(kind.unfinished(job))
            return
        finish = said if isinstance(said, Finish) else Finish(messages=said)
        await patiently(
            lambda: store.ending.finish(
                claim.lease,
                output_file=finish.output_file,
                error_file=finish.error_file,
                messages=finish.messages,
            ),
            lambda: not self.hold.is_over,
        )
        self.hold.is_over = True  # nothing is left of it that could be given back
        if finish.sheds:
            await store.retention.shed(job.id)  # if that does not come to pass, it goes along with the job

    def _has_tried(self, job: Job) -> bool:
        """Whether it was tried often and long enough to end the job."""
        began = job.finalizing_at or job.cancel_requested_at or job.created_at
        return self.hold.lease.epoch >= _TRIES and self._tools.time.now() - began >= _LONG_ENOUGH

    async def _fail(self, failed: Failed) -> None:
        store, lease = self._tools.store, self.hold.lease
        await patiently(
            lambda: store.ending.fail(lease, failed.error, messages=failed.messages), lambda: not self.hold.is_over
        )
        self.hold.is_over = True

    async def _validated(self, kind: JobKind, job: Job) -> Failed | None:
        try:
            return await kind.validate(self._tools.store, self.hold.claim, job)
        except NotFound as error:
            # What it is to be made of is gone, and does not come back.
            logger.error("stage.failed job=%s code=%s %s", job.id, error.code, error)
            return Failed()

    async def _ask_job(self) -> Job:
        store, lease = self._tools.store, self.hold.lease
        return await patiently(lambda: store.jobs.get(lease.job, None), lambda: not self.hold.is_over)

    async def _close(self, delay: float) -> None:
        assert self._steps is not None
        if not self._steps.done():
            self._steps.cancel()
            await asyncio.wait([self._steps])
        hold = self.hold
        was_over, hold.is_over = hold.is_over, True
        if was_over:
            return
        until = self._loop.time() + hold.claim.ttl
        await patiently(
            lambda: self._tools.store.claims.release([hold.lease], delay=delay), lambda: self._loop.time() < until
        )
