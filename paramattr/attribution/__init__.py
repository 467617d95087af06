"""Attribution methods, one a file."""

from paramattr.attribution.absolute_change import absolute_change
from paramattr.attribution.integrated_gradients import FAIG, ParameterPathIntegratedGradients
from paramattr.attribution.random import random_scores

__all__ = ["FAIG", "ParameterPathIntegratedGradients", "absolute_change", "random_scores"]
