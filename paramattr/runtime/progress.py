"""A progress bar on stderr, where one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paramattr.errors import ParamattrError


@contextmanager
def progress_bar(
    description: str, total: float | None, *, show: bool
) -> Iterator[Callable[[float], None]]:
    """Draw a bar while the block runs; the block calls what it is given with the progress made.

    Args:
        description: what is being done.
        total: how much there is to do; None where that is not known.
        show: nothing is drawn, and nothing needed, without it.

    Raises:
        ParamattrError: if a bar is asked for and Rich is not installed.
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
            "leave show_progress out"
        ) from None
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)
