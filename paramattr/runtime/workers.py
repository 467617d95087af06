"""Threads that take tasks side by side, their results in the tasks' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch

Worker = TypeVar("Worker")
Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Worker, Task], Result], workers: Sequence[Worker], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Give each task to a free worker; yield the results in the order of the tasks.

    The threads that torch computes with are shared out among the workers. Tasks are drawn, and
    results taken, in the caller's thread; no task is drawn more than `len(workers) + 1` results
    ahead of the caller. One worker works in the caller's thread, a task a result.

    Args:
        work: what a worker does with a task.
        workers: what each thread has for itself alone, such as a copy of a model.
        tasks: drawn one by one.

    Raises:
        BaseException: what `work` or `tasks` raise, when the task's turn comes; no further task
            is begun.

    >>> list(in_order(lambda factor, number: factor * number, [2, 2], range(4)))
    [0, 2, 4, 6]
    """
    if len(workers) == 1:
        for task in tasks:
            yield work(workers[0], task)
        return
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    threads = torch.get_num_threads()
    autocast, narrow = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def begin() -> None:
        torch.set_num_threads(max(1, threads // len(workers)))

    def run(task: Task) -> Result:
        worker = free.get()
        try:
            with torch.autocast("cpu", narrow, autocast):  # each thread has its own
                return work(worker, task)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers), "paramattr", begin)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(run, task))
            if len(waiting) > len(workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what threads to come begin with
