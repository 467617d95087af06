"""An optional progress bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
