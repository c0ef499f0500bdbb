"""Several workers: processes of their own, which all serve the same generation, or work on its jobs.

The parent has read and checked the file; it sends each worker what it read, and a new generation counts only when all
have put it to work. A worker that dies is replaced. Limits hold for each of them.

Knows: processes, and the few messages between them. Must not know: how requests are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import time
from typing import Any

from ..observe.process_log import set_up
from .config import Loaded
from .fleet import Alone, Refused, Working
from .loop import run

logger = logging.getLogger("batchproxy")

_START_PATIENCE = 30.0
_ANSWER_PATIENCE = 5.0
_PROBE_PATIENCE = 1.0
_SILENT = "a worker died of it, or did not answer"
_LONGEST_PAUSE = 30.0
_LENGTH = struct.Struct("!I")


class Workers:
    """The parent's side: a fleet of processes behind one listening socket; without one they only work on jobs."""

    def __init__(self, listening: socket.socket | None, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._workers = [Worker(index, listening) for index in range(count)]
        self._loaded: Loaded
        self._number = 1
        self._minders: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failed: asyncio.Future[str] = self._loop.create_future()

    async def start(self, loaded: Loaded, number: int = 1) -> None:
        self._loaded, self._number = loaded, number
        logger.info("workers.starting: %d workers; limits are those of each", len(self._workers))
        outcomes = await asyncio.gather(
            *(worker.start(loaded, number) for worker in self._workers), return_exceptions=True
        )
        faults = [each for each in outcomes if isinstance(each, BaseException)]
        if faults:
            for worker in self._workers:
                worker.kill()
            raise Refused(str(faults[0]))
        self._minders = [self._loop.create_task(self._mind(worker)) for worker in self._workers]

    async def _mind(self, worker: Worker) -> None:
        """Replaces a worker that has died; one that dies again and again waits longer each time."""
        pause = 0.1
        while True:
            began = time.monotonic()
            code = await worker.ended()
            if self._stopping:
                return
            logger.error("worker.died: worker=%d exit=%s", worker.index, code)
            pause = 0.1 if time.monotonic() - began > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
            while not self._stopping:
                await asyncio.sleep(pause)
                loaded, number = self._loaded, self._number
                try:
                    await worker.start(loaded, number)
                    logger.info("worker.replaced: worker=%d pid=%s", worker.index, worker.pid)
                    if number != self._number:
                        # A reload came while it began: the next one begins with that.
                        worker.kill()
                    break
                except Refused as refusal:
                    logger.error("worker.refused: worker=%d %s", worker.index, refusal)
                    pause = min(pause * 2, _LONGEST_PAUSE)

    async def apply(self, loaded: Loaded, number: int) -> None:
        try:
            pickle.dumps(loaded)
        except Exception as fault:
            raise Refused(f"it cannot be handed to workers: {type(fault).__name__}: {fault}") from None
        # Those that are not there begin with what is new.
        present = [worker for worker in self._workers if worker.is_connected]
        prepared = await asyncio.gather(*(worker.ask("prepare", (loaded, number)) for worker in present))
        refusals = [each if isinstance(each, str) else _SILENT for each in prepared if each is not True]
        if refusals or self._stopping:
            await asyncio.gather(*(worker.ask("forget", None) for worker in present))
            raise Refused(refusals[0] if refusals else "the process is stopping")
        self._loaded, self._number = loaded, number
        committed = await asyncio.gather(*(worker.ask("commit", None) for worker in self._workers))
        for worker, answer in zip(self._workers, committed, strict=True):
            if answer is not True and not self._stopping:
                # Silent, or begun meanwhile with the last configuration: the one that takes its place has the new one.
                worker.kill()

    async def state(self) -> list[dict[str, Any]]:
        states = await asyncio.gather(*(worker.ask("state", None) for worker in self._workers))
        return [
            {"worker": worker.index, "pid": worker.pid, **(state if isinstance(state, dict) else {"silent": True})}
            for worker, state in zip(self._workers, states, strict=True)
        ]

    async def is_serving(self) -> bool:
        return any(worker.is_connected for worker in self._workers)

    async def unavailable(self) -> set[str]:
        asked = (worker.ask("unavailable", None, patience=_PROBE_PATIENCE) for worker in self._workers)
        answers = await asyncio.gather(*asked)
        found = [each for each in answers if isinstance(each, set)]
        return set.intersection(*found) if found else set()

    async def jobs(self) -> str | None:
        asked = (worker.ask("jobs", None, patience=_PROBE_PATIENCE) for worker in self._workers)
        found = [each for each in await asyncio.gather(*asked) if isinstance(each, str)]
        return max(found) if found else None

    def drain(self) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.tell("drain", None)

    async def stop(self, grace: float) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.tell("stop", grace)
        # As long as anybody has it open, the system takes connections that nobody will answer.
        if self._listening is not None:
            self._listening.close()
        for minder in self._minders:
            minder.cancel()
        endings = [self._loop.create_task(worker.ended()) for worker in self._workers]
        if endings:
            _, left = await asyncio.wait(endings, timeout=grace + _ANSWER_PATIENCE)
            for worker in self._workers:
                worker.kill()
            if left:
                await asyncio.wait(left)

    def kill(self) -> None:
        for worker in self._workers:
            worker.kill()


class Worker:
    """One child process, and the line to it."""

    def __init__(self, index: int, listening: socket.socket | None) -> None:
        self.index = index
        self.pid: int | None = None
        self._listening = listening
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._questions = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._listener: asyncio.Task[None] | None = None
        self.is_connected = False

    async def start(self, loaded: Loaded, number: int) -> None:
        """Raises `Refused`."""
        ours, theirs = socket.socketpair()
        inherited = [each.fileno() for each in (theirs, self._listening) if each is not None]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "batchproxy.server.workers",
                *map(str, inherited),
                pass_fds=inherited,
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C on a terminal is told to the parent alone, which tells its workers when they can hear it.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)},
            )
        self.pid = self._process.pid
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listener = asyncio.get_running_loop().create_task(self._listen(self._reader))
        answer = await self.ask("start", (loaded, number), patience=_START_PATIENCE)
        self.is_connected = answer is True
        if answer is not True:
            self.kill()
            raise Refused(str(answer or "a worker did not start in time"))

    async def ask(self, what: str, more: Any, *, patience: float = _ANSWER_PATIENCE) -> Any:
        """The worker's answer; None if it does not answer in time, or has died. What comes too late is dropped."""
        if self._writer is None:
            return None
        number = next(self._questions)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(what, more, number)
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                number, answer = await _received(reader)
                if number in self._asked and not self._asked[number].done():
                    self._asked[number].set_result(answer)
        except (asyncio.IncompleteReadError, OSError):
            for waiting in self._asked.values():
                if not waiting.done():
                    waiting.set_result(None)

    def tell(self, what: str, more: Any, number: int = -1) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_packed((number, what, more)))

    async def ended(self) -> int | None:
        if self._process is None:
            return None
        code = await self._process.wait()
        self._hang_up()
        return code

    def _hang_up(self) -> None:
        self.is_connected = False
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(None)
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _packed(message: Any) -> bytes:
    content = pickle.dumps(message)
    return _LENGTH.pack(len(content)) + content


async def _received(reader: asyncio.StreamReader) -> Any:
    # Only our own parent or child is at the other end of this line.
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))


# The worker's side


class _Serving:
    """Obeys the parent. Without a parent it ends."""

    def __init__(self, line: socket.socket, listening: socket.socket | None) -> None:
        self._line = line
        self._fleet = Working() if listening is None else Alone(listening)
        self._prepared: tuple[Loaded, int] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def serve(self) -> int:
        self._reader, self._writer = await asyncio.open_connection(sock=self._line)
        while True:
            try:
                number, what, more = await _received(self._reader)
            except (asyncio.IncompleteReadError, OSError):
                logger.error("worker.orphaned: the parent is gone")
                await self._fleet.stop(0.0)
                return 1
            if what == "stop":
                await self._fleet.stop(more)
                return 0
            if what == "drain":
                self._fleet.drain()
                continue
            self._writer.write(_packed((number, await self._answer(what, more))))
            await self._writer.drain()

    async def _answer(self, what: str, more: Any) -> Any:
        if what == "start":
            return await self._start(*more)
        if what == "prepare":
            self._prepared = more
            return self._check(more[0])
        if what == "forget":
            self._prepared = None
            return True
        if what == "commit":
            if self._prepared is None:
                return False
            await self._fleet.apply(*self._prepared)
            self._prepared = None
            return True
        if what == "state":
            return (await self._fleet.state())[0]
        if what == "jobs":
            return await self._fleet.jobs()
        return await self._fleet.unavailable()

    async def _start(self, loaded: Loaded, number: int) -> Any:
        log = loaded.config.server.log
        set_up(log.level, log.format)
        try:
            await self._fleet.start(loaded, number)
        except Refused as refusal:
            return str(refusal)
        return True

    def _check(self, loaded: Loaded) -> Any:
        try:
            self._fleet.check(loaded)
        except Refused as refusal:
            return str(refusal)
        return True


def main(line: int, listening: int | None = None) -> int:
    """A worker: its line to the parent and its listening socket are inherited."""
    # Signals reach the whole group; what they mean is the parent's to say.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    async def serve() -> int:
        listener = None if listening is None else socket.socket(fileno=listening)
        return await _Serving(socket.socket(fileno=line), listener).serve()

    return run(serve())


if __name__ == "__main__":
    code = main(*map(int, sys.argv[1:]))
    sys.stderr.flush()
    os._exit(code)
