"""What goes wrong: one error to catch, and its few kinds."""

from __future__ import annotations


class ParamattrError(ValueError):
    """Any mistake that paramattr can name: catch this one to catch them all.

    Every message names the object, what was expected, what was found and the way out.
    """


class ModelError(ParamattrError):
    """The models, their parameters or the path between them do not fit together."""


class DataError(ParamattrError):
    """Inputs, targets, a loader or an image cannot be used."""


class ObjectiveError(ParamattrError):
    """The objective does not return one finite number a sample."""


class UnitError(ParamattrError):
    """Scores, selections or reducers speak of units that do not fit together."""


class CheckpointError(ParamattrError):
    """A file cannot be read, or is not what was asked for."""
