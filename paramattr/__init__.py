"""Which parameters of a fine-tuned model carry a given function?

A change in what a model does is attributed to the change in its parameters, by integrating
gradients along a path from a baseline model to a target model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramattr.curves import BezierPath as BezierPath
    from paramattr.curves import connect as connect
    from paramattr.errors import ParamattrError as ParamattrError
    from paramattr.faig import FAIG as FAIG
    from paramattr.faig import (
        ParameterPathIntegratedGradients as ParameterPathIntegratedGradients,
    )
    from paramattr.faithfulness.comparison import Comparison as Comparison
    from paramattr.faithfulness.comparison import compare as compare
    from paramattr.faithfulness.curves import Bootstrap as Bootstrap
    from paramattr.faithfulness.curves import Curve as Curve
    from paramattr.faithfulness.masking import insertion_curve as insertion_curve
    from paramattr.faithfulness.masking import masking_curve as masking_curve
    from paramattr.files.reading import load_state_dict as load_state_dict
    from paramattr.files.reading import save_state_dict as save_state_dict
    from paramattr.integration.integrals.adaptive import Adaptive as Adaptive
    from paramattr.methods.absolute_change import absolute_change as absolute_change
    from paramattr.methods.fisher_times_change import fisher_times_change as fisher_times_change
    from paramattr.methods.gradient_times_change import (
        gradient_times_change as gradient_times_change,
    )
    from paramattr.methods.input_path import (
        InputPathIntegratedGradients as InputPathIntegratedGradients,
    )
    from paramattr.methods.random import random_scores as random_scores
    from paramattr.methods.random import random_within_layers as random_within_layers
    from paramattr.methods.substitution import substitution_effect as substitution_effect
    from paramattr.methods.weight_magnitude import weight_magnitude as weight_magnitude
    from paramattr.objectives import absolute_error as absolute_error
    from paramattr.objectives import cross_entropy as cross_entropy
    from paramattr.objectives import logit_difference as logit_difference
    from paramattr.objectives import next_token_cross_entropy as next_token_cross_entropy
    from paramattr.objectives import self_reference as self_reference
    from paramattr.objectives import squared_error as squared_error
    from paramattr.objectives import summed_output as summed_output
    from paramattr.objectives import token_cross_entropy as token_cross_entropy
    from paramattr.paths import PiecewiseLinear as PiecewiseLinear
    from paramattr.paths import StraightLine as StraightLine
    from paramattr.prediction import OverlapClassifier as OverlapClassifier
    from paramattr.prediction import OverlapRegressor as OverlapRegressor
    from paramattr.scoring.profile import PathProfile as PathProfile
    from paramattr.scoring.until import Until as Until
    from paramattr.surgery.alignment import align as align
    from paramattr.surgery.edits import inserted as inserted
    from paramattr.surgery.edits import modulate as modulate
    from paramattr.surgery.edits import substitute as substitute
    from paramattr.surgery.edits import substituted as substituted
    from paramattr.surgery.export.lora import lora_config as lora_config
    from paramattr.surgery.export.masks import masks as masks
    from paramattr.surgery.export.masks import pruning_masks as pruning_masks
    from paramattr.surgery.export.shira import shira_config as shira_config
    from paramattr.surgery.export.shira import train_only_selected as train_only_selected
    from paramattr.surgery.export.task_vectors import task_adapter as task_adapter
    from paramattr.surgery.export.task_vectors import task_vector as task_vector
    from paramattr.surgery.retraining import retrain_only as retrain_only
    from paramattr.trajectories import Trajectory as Trajectory
    from paramattr.trajectories import trajectory as trajectory
    from paramattr.units.agreement import agreement as agreement
    from paramattr.units.agreement import stability as stability
    from paramattr.units.agreement import subset_means as subset_means
    from paramattr.units.contrast import Response as Response
    from paramattr.units.contrast import against_rest as against_rest
    from paramattr.units.contrast import all_pairs as all_pairs
    from paramattr.units.contrast import contrast as contrast
    from paramattr.units.contrast import factorial as factorial
    from paramattr.units.index import Unit as Unit
    from paramattr.units.index import UnitIndex as UnitIndex
    from paramattr.units.reducers import Units as Units
    from paramattr.units.reducers import only as only
    from paramattr.units.scores import Scores as Scores
    from paramattr.units.selection import Selection as Selection

    __version__: str

_ROOMS = {
    "methods.absolute_change": ("absolute_change",),
    "methods.fisher_times_change": ("fisher_times_change",),
    "methods.gradient_times_change": ("gradient_times_change",),
    "methods.input_path": ("InputPathIntegratedGradients",),
    "faig": ("FAIG", "ParameterPathIntegratedGradients"),
    "methods.random": ("random_scores", "random_within_layers"),
    "methods.substitution": ("substitution_effect",),
    "methods.weight_magnitude": ("weight_magnitude",),
    "curves": ("BezierPath", "connect"),
    "files.reading": ("load_state_dict", "save_state_dict"),
    "errors": ("ParamattrError",),
    "faithfulness.comparison": ("Comparison", "compare"),
    "faithfulness.curves": ("Bootstrap", "Curve"),
    "faithfulness.masking": ("insertion_curve", "masking_curve"),
    "integration.integrals.adaptive": ("Adaptive",),
    "scoring.profile": ("PathProfile",),
    "scoring.until": ("Until",),
    "objectives": (
        "absolute_error",
        "cross_entropy",
        "logit_difference",
        "next_token_cross_entropy",
        "self_reference",
        "squared_error",
        "summed_output",
        "token_cross_entropy",
    ),
    "paths": ("PiecewiseLinear", "StraightLine"),
    "prediction": ("OverlapClassifier", "OverlapRegressor"),
    "surgery.alignment": ("align",),
    "surgery.edits": ("inserted", "modulate", "substitute", "substituted"),
    "surgery.export.lora": ("lora_config",),
    "surgery.export.masks": ("masks", "pruning_masks"),
    "surgery.export.shira": ("shira_config", "train_only_selected"),
    "surgery.export.task_vectors": ("task_adapter", "task_vector"),
    "surgery.retraining": ("retrain_only",),
    "trajectories": ("Trajectory", "trajectory"),
    "units.agreement": ("agreement", "stability", "subset_means"),
    "units.contrast": ("Response", "against_rest", "all_pairs", "contrast", "factorial"),
    "units.index": ("Unit", "UnitIndex"),
    "units.reducers": ("Units", "only"),
    "units.scores": ("Scores",),
    "units.selection": ("Selection",),
}
"""The room of each public name. A room is imported when one of its names is first asked for, so
that the command line's help needs no torch (PEP 562)."""

_PLACES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("paramattr")
    elif name in _PLACES:
        value = getattr(import_module(f"paramattr.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module 'paramattr' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, "__version__"})
