"""Which parameters of a fine-tuned model carry a given function?

A change in what a model does is attributed to the change in its parameters, by integrating
gradients along a path from a baseline model to a target model.
"""

from importlib.metadata import version

from paramattr.attribution import (
    FAIG,
    ParameterPathIntegratedGradients,
    absolute_change,
    random_scores,
)
from paramattr.checkpoints import load_state_dict, save_state_dict
from paramattr.contrast import contrast
from paramattr.errors import ParamattrError
from paramattr.objectives import absolute_error, cross_entropy, squared_error
from paramattr.paths import PiecewiseLinear, StraightLine
from paramattr.reducers import Unit, UnitIndex, Units
from paramattr.scores import Scores
from paramattr.selection import Selection
from paramattr.surgery import modulate, retrain_only, substitute

__version__ = version("paramattr")

__all__ = [
    "FAIG",
    "ParamattrError",
    "ParameterPathIntegratedGradients",
    "PiecewiseLinear",
    "Scores",
    "Selection",
    "StraightLine",
    "Unit",
    "UnitIndex",
    "Units",
    "absolute_change",
    "absolute_error",
    "contrast",
    "cross_entropy",
    "load_state_dict",
    "modulate",
    "random_scores",
    "retrain_only",
    "save_state_dict",
    "squared_error",
    "substitute",
]
