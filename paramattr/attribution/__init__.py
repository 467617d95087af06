"""Attribution methods, one a file."""

from paramattr.attribution.absolute_change import absolute_change
from paramattr.attribution.adaptive import Adaptive
from paramattr.attribution.fisher_times_change import fisher_times_change
from paramattr.attribution.gradient_times_change import gradient_times_change
from paramattr.attribution.input_path import InputPathIntegratedGradients
from paramattr.attribution.integrated_gradients import FAIG, ParameterPathIntegratedGradients
from paramattr.attribution.random import random_scores, random_within_layers
from paramattr.attribution.weight_magnitude import weight_magnitude

__all__ = [
    "FAIG",
    "Adaptive",
    "InputPathIntegratedGradients",
    "ParameterPathIntegratedGradients",
    "absolute_change",
    "fisher_times_change",
    "gradient_times_change",
    "random_scores",
    "random_within_layers",
    "weight_magnitude",
]
