"""What goes wrong: one error to catch, its few kinds, and the warning of what may be wrong."""

from __future__ import annotations

import sys
import warnings


class ParamattrError(ValueError):
    """Any mistake that paramattr can name: catch this one to catch them all.

    Every message names the object, what was expected, what was found and the way out.
    """


class ModelError(ParamattrError):
    """The models, their parameters or the path between them do not fit together."""


class DataError(ParamattrError):
    """Inputs, targets, a loader or an image cannot be used."""


class ObjectiveError(ParamattrError):
    """The objective does not return one finite number per sample."""


class UnitError(ParamattrError):
    """Scores, selections or reducers speak of units that do not fit together."""


class CheckpointError(ParamattrError):
    """A file cannot be read, or is not what was asked for."""


def warn(message: str) -> None:
    """Warn about the nearest line that is not paramattr's own: the user's.

    Warns:
        UserWarning: with the message.
    """
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_own(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in ("paramattr", "contextlib")
