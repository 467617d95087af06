"""Which parameters of a fine-tuned model carry a given function?

A change in what a model does is attributed to the change in its parameters, by integrating
gradients along a path from a baseline model to a target model.
"""

from importlib.metadata import version

from paramattr.agreement import agreement, stability, subset_means
from paramattr.attribution import (
    FAIG,
    Adaptive,
    InputPathIntegratedGradients,
    ParameterPathIntegratedGradients,
    absolute_change,
    fisher_times_change,
    gradient_times_change,
    random_scores,
    random_within_layers,
    weight_magnitude,
)
from paramattr.checkpoints import load_state_dict, save_state_dict
from paramattr.comparison import Comparison, compare
from paramattr.contrast import contrast
from paramattr.curves import Bootstrap, Curve
from paramattr.errors import ParamattrError
from paramattr.faithfulness import insertion_curve, masking_curve
from paramattr.objectives import (
    absolute_error,
    cross_entropy,
    self_reference,
    squared_error,
    summed_output,
)
from paramattr.paths import PiecewiseLinear, StraightLine
from paramattr.prediction import OverlapClassifier
from paramattr.reducers import Units, only
from paramattr.scores import Scores
from paramattr.selection import Selection
from paramattr.surgery import inserted, modulate, retrain_only, substitute, substituted
from paramattr.units import Unit, UnitIndex

__version__ = version("paramattr")

__all__ = [
    "FAIG",
    "Adaptive",
    "Bootstrap",
    "Comparison",
    "Curve",
    "InputPathIntegratedGradients",
    "OverlapClassifier",
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
    "agreement",
    "compare",
    "contrast",
    "cross_entropy",
    "fisher_times_change",
    "gradient_times_change",
    "inserted",
    "insertion_curve",
    "load_state_dict",
    "masking_curve",
    "modulate",
    "only",
    "random_scores",
    "random_within_layers",
    "retrain_only",
    "save_state_dict",
    "self_reference",
    "squared_error",
    "stability",
    "subset_means",
    "substitute",
    "substituted",
    "summed_output",
    "weight_magnitude",
]
