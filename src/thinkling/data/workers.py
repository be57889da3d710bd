"""Work handed to other processes whose results come back in the order of the errands, whoever is done first.

Each worker is a Python of its own that reads pickled chunks from its standard input and writes the results to its
standard output (worker.py): it needs nothing of the program's own script, it ends by itself when this process is
killed, for its input ends then, and Ctrl-C does not reach it. Errand i goes to worker i modulo their number, and the
results are taken in the same turn; so the order cannot depend on their speed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import thinkling
from thinkling.core.errors import MachineError
from thinkling.core.language import tr

AHEAD = 4
"""Errands under way for each worker: the next one is there when one is done, and memory stays small."""

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def in_order(
    chunks: Iterable[Chunk], here: Callable[[Chunk], Result], hello: object, workers: int
) -> Generator[Result, None, None]:
    """The result of each chunk, in the order of the chunks.

    Args:
        here: Does the work in this process.
        hello: Told to each worker once, so that it does the same: an `Encoding` of prepare.py.
        workers: How many; with 0, `here` does it all.

    Raises:
        MachineError: A worker died, or could not be started.
        ThinklingError: As the work itself.
    """
    if not workers:
        yield from map(here, chunks)
        return
    pool: list[_Worker] = []
    waiting: deque[Future[Result]] = deque()
    try:
        while len(pool) < workers:
            pool.append(_Worker(hello))
        for number, chunk in enumerate(chunks):
            waiting.append(pool[number % workers].ask(chunk))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # Ctrl-C and errors come here too: nobody is left behind
        for worker in pool:
            worker.stop()


class _Worker:
    """One process, and the thread that speaks with it: it sends an errand, and waits for its result."""

    def __init__(self, hello: object) -> None:
        package = str(Path(thinkling.__file__).parents[1])
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "thinkling.data.worker"],  # -P: no module of the folder it runs in is ours
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                tr("no process that tokenises can be started: {error}", error=error.strerror or error),
                where="data_workers",
                fix=tr("close other programs, or set data_workers to less or to 0"),
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._thread.submit(self._send, hello)

    def ask(self, chunk: object) -> Future[Any]:
        return self._thread.submit(self._exchange, chunk)

    def _send(self, value: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # a dead worker is told when its answer is missed
            pickle.dump(value, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()

    def _exchange(self, chunk: object) -> Any:
        assert self.process.stdout is not None
        self._send(chunk)
        try:
            is_well, value = pickle.load(self.process.stdout)  # noqa: S301  (of our own process)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise self._died() from error
        if not is_well:
            raise value
        return value

    def _died(self) -> MachineError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        return MachineError(
            tr("a process that tokenises died (exit code {code})", code=self.process.returncode),
            where=tr("worker process {number}", number=self.process.pid),
            fix=tr("if memory ran out, close other programs or set data_workers=0; nothing half-written is kept"),
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.shutdown(wait=True, cancel_futures=True)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
