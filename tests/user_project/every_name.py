"""What `project.py` leaves out of the public names, each used as a user would."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from paramattr import (
    FAIG,
    Adaptive,
    BezierPath,
    Bootstrap,
    Comparison,
    Curve,
    OverlapClassifier,
    OverlapRegressor,
    ParamattrError,
    ParameterPathIntegratedGradients,
    PathProfile,
    PiecewiseLinear,
    Response,
    Scores,
    Selection,
    StraightLine,
    Trajectory,
    UnitIndex,
    Units,
    Until,
    absolute_change,
    absolute_error,
    against_rest,
    agreement,
    align,
    all_pairs,
    compare,
    connect,
    factorial,
    inserted,
    insertion_curve,
    load_state_dict,
    logit_difference,
    lora_config,
    masking_curve,
    masks,
    modulate,
    next_token_cross_entropy,
    only,
    pruning_masks,
    random_scores,
    random_within_layers,
    retrain_only,
    save_state_dict,
    self_reference,
    shira_config,
    squared_error,
    stability,
    subset_means,
    substituted,
    substitution_effect,
    summed_output,
    task_adapter,
    task_vector,
    token_cross_entropy,
    train_only_selected,
    trajectory,
    weight_magnitude,
)
from paramattr.objectives import Objective

Batches = list[tuple[Tensor, Tensor]]

OBJECTIVES: list[Objective] = [
    absolute_error,
    squared_error,
    summed_output,
    self_reference,
    token_cross_entropy,
    next_token_cross_entropy,
    logit_difference(answer=3, distractor=5),
]


def paths(target: nn.Module, baseline: nn.Module, data: Batches) -> list[float]:
    straight = StraightLine(target, baseline)
    through = PiecewiseLinear([target, baseline, baseline])
    curve: BezierPath = connect(target, align(baseline, target), data, steps=2)
    curve = BezierPath(target, baseline, baseline)
    found = []
    for path in (straight, through, curve):
        faig = ParameterPathIntegratedGradients(target, baseline, path=path)
        profile: PathProfile = faig.path_profile(data, n_points=3)
        found.append(profile.barrier)
    return found


def column(name: str, parameter: Tensor, module: nn.Module) -> Units | None:
    if parameter.ndim != 2:
        return None
    return Units(name, (parameter.shape[1],), load_labels(parameter))


def load_labels(parameter: Tensor) -> Tensor:
    return parameter.new_zeros(1, parameter.shape[1]).long()


def rankings(target: nn.Module, baseline: nn.Module, data: Batches) -> dict[str, Scores]:
    faig = FAIG(target, baseline)
    adaptive: Scores = faig.score(data, reducer=column, method=Adaptive(rtol=1e-2))
    settled: Scores = faig.score(data, reducer=column, until=Until(0.9, fraction=0.05))
    exact: Scores = substitution_effect(target, baseline, data)
    like = absolute_change(target, baseline, reducer="layer")
    return {
        "adaptive": adaptive,
        "settled": settled,
        "exact": exact,
        "change": like,
        "weight": weight_magnitude(target, reducer=only("layer", ["head"])),
        "random": random_scores(target, reducer="layer", seed=1),
        "control": random_within_layers(like.top(count=1)),
    }


def faithfulness(
    target: nn.Module, baseline: nn.Module, scores: Scores, x: Tensor, y: Tensor
) -> Comparison:
    def error(model: nn.Module) -> Tensor:
        return squared_error(model(x), y)

    lost: Curve = masking_curve(target, baseline, scores, error)
    gained: Curve = insertion_curve(target, baseline, scores, error)
    print(lost.values.shape, gained.fractions)
    return compare(
        target,
        baseline,
        {"FAIG": scores},
        {"error": error},
        fractions=(0, 0.5, 1),
        bootstrap=Bootstrap(resamples=100),
    )


def edits(target: nn.Module, baseline: nn.Module, found: Selection, x: Tensor) -> nn.Module:
    with substituted(target, baseline, found) as without:
        without(x)
    with inserted(target, baseline, found) as alone:
        alone(x)
    half = modulate(target, baseline, found, 0.5)
    trainable = retrain_only(baseline, found)
    print(sum(parameter.numel() for parameter in trainable.parameters()))
    return half


def exported(target: nn.Module, baseline: nn.Module, found: Selection) -> int:
    boolean: dict[str, Tensor] = masks(found)
    change: dict[str, Tensor] = task_vector(target, baseline, found)
    places = [name for _, name, _ in pruning_masks(target, found)]
    print(boolean.keys(), change.keys(), places, lora_config(target, found).rank_pattern)
    print(shira_config(target, found).r)
    return train_only_selected(task_adapter(target, baseline, found), found)


def designed(scores: dict[str, Scores]) -> Scores:
    effects = factorial(
        scores, {"clean": (), "blurry": ["blur"], "noisy": ("noise",), "both": ["blur", "noise"]}
    )
    print(all_pairs(scores)["clean", "blurry"], against_rest(scores)["clean"])
    return effects["blur"]


def trained(model: nn.Module, checkpoints: list[Path], data: Batches) -> float:
    run: Trajectory = trajectory(model, checkpoints, data, reducer="layer")
    return run.difference


def settled(per_sample: list[Scores]) -> float:
    subsets: dict[int, list[Scores]] = subset_means(per_sample, [2, 4])
    smallest = stability(subsets, fraction=0.1)
    print(smallest)
    overlap: float = agreement(per_sample[0], per_sample[1], fraction=0.1).overlap
    return overlap


def predicted(found: dict[str, Selection], known: list[Scores], new: Scores) -> bool:
    classifier = OverlapClassifier(found).fit(known, [(name,) for name in found])
    return "blur" in classifier.predict([new])[0]


def severity(known: dict[float, Scores], new: Scores) -> float:
    rising: Selection = Response(known).slope.top(fraction=0.01)
    regressor = OverlapRegressor({"blur": rising}, degree=1)
    regressor.fit(known.values(), {"sigma": list(known)})
    return float(regressor.predict([new])["sigma"][0])


def kept(path: Path, model: nn.Module) -> UnitIndex | None:
    try:
        save_state_dict(path, model.state_dict())
        model.load_state_dict(load_state_dict(path))
        return UnitIndex.of(model, "layer")
    except ParamattrError as error:
        print(error)
        return None
