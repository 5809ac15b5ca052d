"""`WorkQueue`: numbered work that processes take one by one, so that none waits for another."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch.distributed as dist

from algorithms.common.distributed.failures import DistributedError
from algorithms.common.distributed.processes import Processes

POLL_SECONDS = 0.2  # between two looks at what others have sent, once rank 0 has no work of its own
_QUEUES = itertools.count()  # every process makes its queues in the same order


class WorkQueue:
    """Deals out the numbers 0 to `count` - 1 to the processes of a run, and brings their results to rank 0.

    Both go through the store of the process group: a counter, and a message for each result. There is no collective
    operation, so a slow process does not delay the others. At the end, rank 0 waits for at most one result of each.

    Args:
        processes: of the run, more than one. Every process makes the queue.
        count: pieces of work.
        timeout_minutes: how long rank 0 waits for a result, once nothing is left to take.
    """

    def __init__(self, processes: Processes, count: int, timeout_minutes: float = 30.0) -> None:
        self.processes = processes
        self.count = count
        self.timeout_minutes = timeout_minutes
        self._store = dist.distributed_c10d._get_default_store()  # torch has no public name for it
        self._prefix = f"igsearch-work-{next(_QUEUES)}"
        self._received = dict.fromkeys(range(1, processes.size), 0)  # messages, by rank

    def numbers(self) -> Iterator[int]:
        """The numbers that this process has taken; each is taken by one process."""
        while (number := self._take()) < self.count:
            yield number

    def results(self, own: Iterable[Any]) -> Iterator[Any]:
        """On rank 0, the results of all processes as they come; the other ranks send theirs, and yield nothing.

        `own`: one result, plain data, for each of `numbers`. Raises `DistributedError` if the other processes
        send nothing for `timeout_minutes`.
        """
        if not self.processes.is_main:
            for place, result in enumerate(own):
                with self.processes.guard("sending results"):
                    self._store.set(self._key(self.processes.rank, place), json.dumps(result))
            return
        missing = self.count
        for result in own:
            missing -= 1
            yield result
            for other in self._sent():
                missing -= 1
                yield other
        heard = time.monotonic()
        while missing:
            sent = self._sent()
            missing -= len(sent)
            yield from sent
            if sent:
                heard = time.monotonic()
            elif time.monotonic() - heard > self.timeout_minutes * 60:
                raise DistributedError(
                    f"{missing} results of other processes did not arrive within {self.timeout_minutes:g} minutes: "
                    "another process has ended or does not answer; "
                    f"see its own output for the cause; {self.processes.repair}"
                )
            else:
                time.sleep(POLL_SECONDS)

    def _sent(self) -> list[Any]:
        """What the other processes have sent since the last call."""
        found = []
        with self.processes.guard("receiving results"):
            for rank in self._received:
                while self._store.check([key := self._key(rank, self._received[rank])]):
                    found.append(json.loads(self._store.get(key)))
                    self._store.delete_key(key)
                    self._received[rank] += 1
        return found

    def _take(self) -> int:
        with self.processes.guard("taking work"):
            return int(self._store.add(f"{self._prefix}/taken", 1)) - 1

    def _key(self, rank: int, place: int) -> str:
        return f"{self._prefix}/{rank}/{place}"
