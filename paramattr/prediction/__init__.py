"""Prediction of what a sample calls for, and how much of it, from the units that serve it."""

from paramattr.prediction.classifier import OverlapClassifier as OverlapClassifier
from paramattr.prediction.regressor import OverlapRegressor as OverlapRegressor
