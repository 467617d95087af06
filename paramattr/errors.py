"""Errors and warnings: one base class to catch, and its kinds."""

from __future__ import annotations

import re
import sys
import warnings


class ParamattrError(ValueError):
    """The base class of paramattr's errors: catch it to catch them all.

    Every message names the object, what was expected, what was found and how to fix it. Names in
    it may be a stranger's: it holds no control characters.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ModelError(ParamattrError):
    """The models, their parameters or the path between them do not fit together."""


class DataError(ParamattrError):
    """Inputs, targets, a loader or an image cannot be used."""


class ObjectiveError(ParamattrError):
    """The objective does not return one finite number per sample."""


class UnitError(ParamattrError):
    """Scores, selections or reducers refer to units that do not fit together."""


class CheckpointError(ParamattrError):
    """A file cannot be read or written, or does not hold what was expected."""


class RankError(ParamattrError):
    """Several processes do not fit together: one failed, is gone, or was given other data."""


def printable(text: object) -> str:
    r"""Write what could steer a terminal as its escape: control characters, ends of lines.

    >>> print(printable("weight\x1b[31m\n"), printable("Grüße 日本"))
    weight\x1b[31m\n Grüße 日本
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in shown)


def one_line(error: BaseException, most: int = 200) -> str:
    r"""Give the first line of what an error says, cut where it is long.

    >>> one_line(OSError("no such file\nand more")), one_line(EOFError())
    ('no such file', 'EOFError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


def an(kind: type | str) -> str:
    """Put the article before the name of a type.

    >>> an(int), an(dict), an(type(None)), an("LSTM"), an("UNet")
    ('an int', 'a dict', 'None', 'an LSTM', 'a UNet')
    """
    if kind is type(None):
        return "None"
    name = kind if isinstance(kind, str) else kind.__name__
    if name[:2].isupper():  # spelled letter by letter: an LSTM, an SRResNet, a UNet
        return f"{'an' if name[0] in 'AEFHILMNORSX' else 'a'} {name}"
    is_you = re.match(r"u(ni|int|se|net)|eu|one", name, re.IGNORECASE)  # sounds like "you" or "won"
    return f"{'an' if name[0] in 'aeiouAEIOU' and not is_you else 'a'} {name}"


def warn(message: str) -> None:
    """Issue a warning that points at the user's line, not at one of paramattr's.

    Warns:
        UserWarning: with the message.
    """
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_internal(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(printable(message), UserWarning, stacklevel=level)


def _is_internal(module: str) -> bool:
    return module.partition(".")[0] in ("paramattr", "contextlib")
