"""Runs that are ended from outside, and how much is done when they are started again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

import pytest
import torch


def cut(batches: Iterable, after: int) -> Iterator:
    """Give so many batches, then end the run."""
    yield from islice(batches, after)
    raise KeyboardInterrupt


def check_resumes(score, batches: list, after: int, file: Path):
    """End a run of `score(batches, checkpoint=None)`, start it again, and compare bit for bit."""
    whole = score(batches)
    with pytest.raises(KeyboardInterrupt):
        score(cut(batches, after), checkpoint=file)
    resumed = score(batches, checkpoint=file)
    for kind in ("values", "signed", "standard_error"):
        one, two = getattr(resumed, kind), getattr(whole, kind)
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    return resumed


@contextmanager
def calls(owner: type, method: str, *, killed_at: int | None = None) -> Iterator[list]:
    """Note the arguments of a method's calls; end the run instead of one of them, from 1 on."""
    seen, own = [], getattr(owner, method)

    def noted(self, *arguments, **options):
        if len(seen) + 1 == killed_at:
            raise KeyboardInterrupt
        seen.append((self, *arguments))
        return own(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, noted)
        yield seen


@contextmanager
def writes(pattern: str, *, killed_at: int | None = None) -> Iterator[list[str]]:
    """Note the files of a pattern that are written; end the run instead of one of them."""
    seen, own = [], Path.replace

    def noted(self, target):
        if fnmatch(str(target), pattern):
            if len(seen) + 1 == killed_at:
                raise KeyboardInterrupt
            seen.append(Path(target).name)
        return own(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", noted)
        yield seen
