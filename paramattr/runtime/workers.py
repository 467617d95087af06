"""Long work: threads that keep its order, and a bar that shows how far it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from paramattr.errors import ParamattrError


@contextmanager
def progress_bar(
    description: str, total: float | None, *, show: bool
) -> Iterator[Callable[[float], None]]:
    """Show a progress bar while the block runs.

    Args:
        description: the label of the bar.
        total: the amount of work; None if it is unknown.
        show: whether to show the bar; if False, Rich is not needed.

    Yields:
        A function that the block calls with each amount of progress.

    Raises:
        ParamattrError: if `show` is True and Rich is not installed.
    """
    if not show:
        yield lambda amount: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        raise ParamattrError(
            "a progress bar needs Rich, which is not installed: pip install 'paramattr[cli]', or "
            "leave out show_progress"
        ) from None
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


Worker = TypeVar("Worker")
Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Worker, Task], Result], workers: Sequence[Worker], tasks: Iterable[Task]
) -> Generator[Result, None, None]:
    """Give each task to a free worker; yield the results in the order of the tasks.

    The workers share torch's threads. Tasks are drawn and results are yielded in the caller's
    thread. No task is drawn more than `len(workers) + 1` results ahead of the caller. A single
    worker runs in the caller's thread, with no task drawn ahead.

    Args:
        work: a function of a worker and a task.
        workers: an object for each thread to use alone, such as a copy of a model.
        tasks: drawn one by one.

    Raises:
        BaseException: whatever `work` or `tasks` raise, when the task's turn comes; no further
            task is started.

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

    def start() -> None:
        torch.set_num_threads(max(1, threads // len(workers)))

    def run(task: Task) -> Result:
        worker = free.get()
        try:
            with torch.autocast("cpu", narrow, autocast):  # autocast is set per thread
                return work(worker, task)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers), "paramattr", start)
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
        torch.set_num_threads(threads)  # the default of later threads
