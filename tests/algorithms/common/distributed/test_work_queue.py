"""`WorkQueue` with a store in this process: what is dealt out, what rank 0 receives, and how long it waits."""

from __future__ import annotations

import json
import threading

import pytest
import torch.distributed as dist

from algorithms.common.distributed import work_queue
from algorithms.common.distributed.failures import DistributedError
from algorithms.common.distributed.processes import Processes
from algorithms.common.distributed.work_queue import WorkQueue


class FakeStore:
    """The operations of `torch.distributed.Store` that a queue needs."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            self.counters[key] = self.counters.get(key, 0) + amount
            return self.counters[key]

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.values.pop(key, None) is not None


def queues(monkeypatch: pytest.MonkeyPatch, size: int, count: int, timeout_minutes: float = 1.0) -> list[WorkQueue]:
    """The queue of each rank, over the same store."""
    store = FakeStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(work_queue, "POLL_SECONDS", 0.01)
    made = []
    for rank in range(size):
        monkeypatch.setattr(work_queue, "_QUEUES", iter([7]))  # as in processes of their own
        made.append(WorkQueue(Processes(rank, size), count, timeout_minutes))
    return made


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_each_number_is_taken_once_and_all_results_come_to_rank_0(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = queues(monkeypatch, 3, count)
    threads = [
        threading.Thread(target=lambda q=q: list(q.results({"square": n * n} for n in q.numbers()))) for q in others
    ]
    for thread in threads:
        thread.start()
    found = list(first.results({"square": n * n} for n in first.numbers()))
    for thread in threads:
        thread.join(30)
    assert sorted(result["square"] for result in found) == [n * n for n in range(count)]
    assert not first._store.values  # nothing is left over


def test_other_ranks_yield_nothing_and_their_results_come_while_rank_0_works(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = queues(monkeypatch, 2, 4)
    taken = second.numbers()
    assert list(second.results([next(taken), next(taken)])) == []
    assert list(first.results(10 + n for n in first.numbers())) == [12, 0, 1, 13]


def test_rank_0_gives_up_on_a_process_that_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = queues(monkeypatch, 2, 3, timeout_minutes=0.001)
    first.processes.repair = "start the same command again"
    next(second.numbers())  # and ends
    found = []
    with pytest.raises(
        DistributedError,
        match=r"1 results of other processes did not arrive within 0.001 minutes.*; start the same command again",
    ):
        found.extend(first.results(first.numbers()))


def test_the_wait_begins_again_with_every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = queues(monkeypatch, 2, 4, timeout_minutes=0.01)  # 0.6 s
    numbers = [next(second.numbers()) for _ in range(4)]
    for place in range(4):  # 1 s in all
        send = threading.Timer(0.25 * (place + 1), first._store.set, (second._key(1, place), json.dumps(place)))
        send.start()
    assert list(first.results(first.numbers())) == numbers
