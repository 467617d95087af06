"""Masking and insertion curves against copies made one by one; areas, intervals, selectivity."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import (
    Scores,
    Selection,
    UnitIndex,
    Units,
    inserted,
    insertion_curve,
    masking_curve,
    random_scores,
    squared_error,
    substitute,
    substituted,
)
from paramattr.errors import CheckpointError, ModelError, ObjectiveError, UnitError
from paramattr.faithfulness.curves import Bootstrap, Curve
from paramattr.faithfulness.masking import FRACTIONS, curves, with_fractions
from paramattr.parameters import named_parameters
from tests.test_undisturbed import MODELS as DISTURBED
from tests.test_undisturbed import Stop, equal, traces, world
from tests.tiny import (
    MODELS,
    convnet,
    indexes,
    inputs_for,
    moved,
    seeded,
    selections_of,
    takes,
    tied,
)

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def measure_on(build):
    """Give a measure: the error on fixed inputs and targets, one number a sample."""
    x = inputs_for(build).double()
    with torch.no_grad():
        targets = seeded(lambda: torch.randn_like(build().double()(x)), 5)
    return lambda model: squared_error(model(x), targets)


def pair(build):
    """Give a target and a baseline whose buffers differ too."""
    return build().double(), moved(build(), buffers=True).double()


def everything(index: UnitIndex) -> Selection:
    return Selection(index, torch.ones(len(index), dtype=torch.bool))


def slow_curve(edit, target, baseline, ranking, measure, fractions):
    """Make a new model for each fraction, whose top units are taken from the other one."""
    order = sorted(range(len(ranking)), key=lambda unit: (-ranking.values[unit].item(), unit))
    start, source = (target, baseline)
    if edit is insertion_curve:
        start, source = baseline, target
    rows = []
    for fraction in fractions:
        count = max(1, round(fraction * len(ranking))) if fraction > 0 else 0
        chosen = torch.zeros(len(ranking), dtype=torch.bool)
        chosen[order[:count]] = True
        edited = substitute(start, source, Selection(ranking.index, chosen))
        with torch.no_grad():
            rows.append(measure(edited))
    return torch.stack(rows)


EDITED = pytest.mark.parametrize("edit", [masking_curve, insertion_curve])
BUILT = [(b, r) for b in MODELS for r in ("scalar", "kernel", "output_channel") if takes(b, r)]


@EDITED
@pytest.mark.parametrize(("build", "reducer"), BUILT)
def test_each_point_is_measured_on_a_copy_edited_anew(edit, build, reducer):
    target, baseline = pair(build)
    ranking = random_scores(target, reducer=reducer, seed=4)
    measure = measure_on(build)
    found = edit(target, baseline, ranking, measure, fractions=FEW)
    assert found.fractions == FEW
    assert found.values.dtype == torch.float64
    expected = slow_curve(edit, target, baseline, ranking, measure, FEW)
    torch.testing.assert_close(found.values, expected, **TIGHT)
    torch.testing.assert_close(found.mean(), expected.sum(1) / expected.shape[1], **TIGHT)


@pytest.mark.parametrize("build", MODELS)
def test_the_ends_are_the_two_models(build):
    target, baseline = pair(build)
    measure = measure_on(build)
    own = measure(target).detach()
    other = measure(baseline).detach()
    assert not torch.allclose(own, other)
    scalars = random_scores(target, reducer="scalar")
    masked = masking_curve(target, baseline, scalars, measure, fractions=(0, 1)).values
    assert torch.equal(masked[0], own)
    assert torch.equal(masked[1], other)
    insertion = insertion_curve(target, baseline, scalars, measure, fractions=(0, 1)).values
    assert torch.equal(insertion[0], other)
    assert torch.equal(insertion[1], own)


def test_the_ends_of_units_that_are_not_everything():
    """Kernels leave biases, norms and linear layers out: masked they stay, inserted they go."""
    target, baseline = pair(convnet)
    measure = measure_on(convnet)
    kernels = random_scores(target)
    everyone = everything(kernels.index)
    masked = masking_curve(target, baseline, kernels, measure, fractions=(0, 1)).values
    expected = measure(substitute(target, baseline, everyone)).detach()
    torch.testing.assert_close(masked[1], expected, **TIGHT)
    insertion = insertion_curve(target, baseline, kernels, measure, fractions=(0, 1)).values
    own, other = measure(target).detach(), measure(baseline).detach()
    torch.testing.assert_close(insertion[0], other, **TIGHT)
    assert not torch.allclose(insertion[1], own)
    for name in ("weight", "bias"):
        getattr(baseline.fc, name).data.copy_(getattr(target.fc, name).data)
        getattr(baseline.norm, name).data.copy_(getattr(target.norm, name).data)
    baseline.norm.load_state_dict(target.norm.state_dict())
    baseline.head.bias.data.copy_(target.head.bias.data)
    whole = insertion_curve(target, baseline, kernels, measure, fractions=(1,)).values
    torch.testing.assert_close(whole[0], own, **TIGHT)


def first_column(name, parameter, module):
    """Give units to the first entry of each row alone: the rest of a parameter has none."""
    if parameter.ndim < 2:
        return None
    labels = torch.full(parameter.shape, -1)
    labels.view(len(parameter), -1)[:, 0] = torch.arange(len(parameter))
    return Units(name, (len(parameter),), labels)


def test_entries_without_a_unit_are_the_targets_when_masking():
    target, baseline = pair(convnet)
    everyone = everything(UnitIndex.of(target, first_column))
    own, other = named_parameters(target), named_parameters(baseline)
    own = {name: value.clone() for name, value in own.items()}
    with substituted(target, baseline, everyone) as edited:
        for name, value in named_parameters(edited).items():
            mask = everyone.mask(name)
            assert torch.equal(value[mask], other[name][mask])
            assert torch.equal(value[~mask], own[name][~mask])


def test_entries_without_a_unit_are_the_baselines_when_inserting():
    target, baseline = pair(convnet)
    some = random_scores(target, reducer=first_column).top(fraction=0.5)
    own, other = named_parameters(target), named_parameters(baseline)
    own = {name: value.clone() for name, value in own.items()}
    with inserted(target, baseline, some) as edited:
        for name, value in named_parameters(edited).items():
            mask = some.mask(name)
            assert torch.equal(value[mask], own[name][mask]), name
            assert torch.equal(value[~mask], other[name][~mask]), name


# In place, and restored


@settings(max_examples=15)
@given(st.data(), st.sampled_from(MODELS))
def test_the_context_managers_are_substitute_and_its_complement(data, build):
    target, baseline = pair(build)
    selection = data.draw(selections_of(data.draw(indexes((build,)))))
    before = copy.deepcopy(target).state_dict()
    expected = {
        substituted: substitute(target, baseline, selection),
        inserted: substitute(baseline, target, selection),
    }
    for edit, wanted in expected.items():
        for other in (baseline, baseline.state_dict()):
            with edit(target, other, selection) as edited:
                assert edited is target
                state = target.state_dict()
                assert all(torch.equal(state[n], v) for n, v in wanted.state_dict().items())
            assert all(torch.equal(target.state_dict()[n], v) for n, v in before.items())


def test_edits_may_be_nested():
    target, baseline = pair(convnet)
    third = moved(convnet(), seed=9).double()
    one, two = (random_scores(target, seed=seed).top(fraction=0.5) for seed in (1, 2))
    assert len(one & two)
    before = copy.deepcopy(target)
    with substituted(target, baseline, one):
        inside = copy.deepcopy(target)
        with substituted(target, third, two):
            wanted = substitute(substitute(before, baseline, one), third, two)
            for name, value in target.state_dict().items():
                assert torch.equal(value, wanted.state_dict()[name])
        for name, value in target.state_dict().items():
            assert torch.equal(value, inside.state_dict()[name])
    for name, value in target.state_dict().items():
        assert torch.equal(value, before.state_dict()[name])


@pytest.mark.parametrize("edit", [substituted, inserted])
def test_an_edit_is_undone_after_an_error_and_a_change_inside(edit):
    target, baseline = pair(tied)
    before = {name: (id(p), p.detach().clone()) for name, p in target.named_parameters()}
    half = random_scores(target, reducer="scalar").top(fraction=0.5)

    def act():
        with edit(target, baseline, half), torch.no_grad():
            for parameter in target.parameters():
                parameter.mul_(-2) if edit is inserted else None
            raise Stop

    with pytest.raises(Stop):
        act()
    for name, parameter in target.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert target.first.weight is target.second.weight


@pytest.mark.parametrize("edit", [substituted, inserted])
def test_an_edit_refuses_what_does_not_fit_and_touches_nothing(edit):
    target, baseline = pair(convnet)
    before = copy.deepcopy(target).state_dict()
    selection = random_scores(target).top(count=2)
    others = random_scores(tied(), reducer="scalar").top(count=2)
    for arguments, error, message in (
        ((target, tied(), selection), ModelError, "missing in the baseline"),
        ((target, baseline, others), UnitError, "of another model"),
        ((target, baseline, random_scores(target)), UnitError, "expected a Selection"),
    ):
        with pytest.raises(error, match=message), edit(*arguments):
            pass
    assert all(torch.equal(target.state_dict()[n], v) for n, v in before.items())


def without_versions(found):
    """Leave out how often a tensor was written to: curves edit in place, to the same bits."""
    return {**found, "identities": {n: i[:2] for n, i in found["identities"].items()}}


def raising(at: int, measure):
    calls = iter(range(100))

    def act(model):
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        if next(calls) == at:
            raise Stop
        return measure(model)

    return act


@EDITED
@pytest.mark.parametrize("model", [m for m in DISTURBED if m != "buffer written in place"])
@pytest.mark.parametrize("at", [0, 2, 99])
def test_no_curve_leaves_a_trace(edit, model, at):
    target = DISTURBED[model]()
    baseline = moved(target)
    x = inputs_for(convnet)
    ranking = random_scores(target, seed=1)
    measure = raising(at, lambda m: m(x).square().sum(1))
    with torch.random.fork_rng(devices=[]):
        before = [*map(traces, (target, baseline)), world()]
        if at < 99:
            with pytest.raises(Stop):
                edit(target, baseline, ranking, measure, fractions=FEW)
        else:
            edit(target, baseline, ranking, measure, fractions=FEW)
        after = [*map(traces, (target, baseline)), world()]
    before[:2], after[:2] = (list(map(without_versions, s[:2])) for s in (before, after))
    for side, one, two in zip(("target", "baseline", "world"), before, after, strict=True):
        for what in one:
            assert equal(one[what], two[what]), f"{what} of the {side}"


def test_a_measure_that_draws_sees_the_same_numbers_at_each_point():
    target, baseline = pair(convnet)
    seen = []

    def measure(model):
        assert not torch.is_grad_enabled()
        seen.append(float(torch.rand(())))
        return torch.ones(2)

    masking_curve(target, baseline, random_scores(target), measure, fractions=FEW)
    assert len(seen) == len(FEW)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("edit", ["masking", "insertion"])
def test_equal_selections_are_measured_once(edit):
    target, baseline = pair(convnet)
    measure = measure_on(convnet)
    calls, steps = [], []

    def counted(model):
        calls.append(None)
        return measure(model)

    rankings = [random_scores(target, seed=seed) for seed in (0, 1, 2, 0)]
    found = curves(
        target,
        baseline,
        rankings,
        [counted, lambda m: 2 * measure(m)],
        fractions=FEW,
        edit=edit,
        advance=steps.append,
    )
    tops = {
        tuple(ranking.top(count=round(fraction * len(ranking))).chosen.tolist())
        for ranking in rankings
        for fraction in FEW
    }
    # Inserting nothing is not the unedited model, which is measured first.
    assert len(calls) == len(tops) + (edit == "insertion")
    assert len(tops) < 3 * len(FEW)
    assert steps == [1] * (4 * len(FEW))
    alone = {"masking": masking_curve, "insertion": insertion_curve}[edit]
    for ranking, (one, two) in zip(rankings, found, strict=True):
        own = alone(target, baseline, ranking, measure, fractions=FEW)
        assert torch.equal(one.values, own.values)
        assert torch.equal(two.values, 2 * own.values)


def test_rankings_of_other_units_do_not_get_each_others_ends():
    target, baseline = pair(convnet)
    measure = measure_on(convnet)
    rankings = [random_scores(target, reducer=r) for r in ("kernel", "scalar", "layer")]
    found = curves(target, baseline, rankings, [measure], fractions=FEW)
    for ranking, (own,) in zip(rankings, found, strict=True):
        expected = slow_curve(masking_curve, target, baseline, ranking, measure, FEW)
        torch.testing.assert_close(own.values, expected, **TIGHT)


def test_as_many_units_of_another_kind_are_another_selection():
    target = seeded(lambda: nn.Conv2d(2, 2, 3)).double()
    baseline, x = moved(target), torch.ones(1, 2, 3, 3, dtype=torch.float64)
    rankings = [
        Scores(UnitIndex.of(target, reducer), torch.tensor([1.0, 0.0]))
        for reducer in ("output_channel", "input_channel")
    ]

    def measure(model):
        return model(x).flatten(1).sum(1)

    found = curves(target, baseline, rankings, [measure], fractions=(0, 0.5, 1))
    for ranking, (own,) in zip(rankings, found, strict=True):
        alone = masking_curve(target, baseline, ranking, measure, fractions=(0, 0.5, 1))
        assert torch.equal(own.values, alone.values)
    assert not torch.equal(found[0][0].values, found[1][0].values)


# Checkpoints


@pytest.mark.parametrize("edit", ["masking", "insertion"])
def test_interrupted_curves_go_on_from_their_checkpoint(edit, tmp_path):
    target, baseline = pair(convnet)
    measure = measure_on(convnet)
    rankings = [random_scores(target, seed=seed) for seed in range(2)]
    calls = []

    def counted(model):
        calls.append(None)
        return measure(model)

    def drawn(measures, **more):
        return curves(target, baseline, rankings, measures, fractions=FEW, edit=edit, **more)

    straight = drawn([counted, measure])
    whole = len(calls)
    with pytest.raises(Stop):
        drawn([raising(4, measure), measure], checkpoint=tmp_path / "kept")
    calls.clear()
    resumed = drawn([counted, measure], checkpoint=tmp_path / "kept")
    assert len(calls) == whole - 4 + 3  # both models are measured at each start
    calls.clear()
    again = drawn([counted, measure], checkpoint=tmp_path / "kept")
    assert len(calls) == 2
    for other in (resumed, again):
        for one, two in zip(straight, other, strict=True):
            for own, kept in zip(one, two, strict=True):
                assert torch.equal(own.values, kept.values)
                assert own.fractions == kept.fractions


def test_a_checkpoint_of_other_curves_is_refused(tmp_path):
    target, baseline = pair(convnet)
    measure, file = measure_on(convnet), tmp_path / "kept"
    ranking = [random_scores(target)]

    def drawn(model=target, other=baseline, measures=(measure,), **more):
        curves(model, other, ranking, list(measures), fractions=FEW, checkpoint=file, **more)

    drawn()
    for change, what in (
        ({"model": moved(target)}, r"settings \(models differs"),
        ({"other": moved(baseline)}, r"settings \(models differs"),
        ({"edit": "insertion"}, r"settings \(edit differs"),
        ({"measures": [lambda m: 2 * measure(m)]}, "measures or data"),
        ({"measures": [measure, measure]}, "measures or data"),
    ):
        with pytest.raises(CheckpointError, match=f"made with other {what}"):
            drawn(**change)
    Scores(ranking[0].index, ranking[0].values).save(file)
    with pytest.raises(CheckpointError, match="made with other"):
        drawn()


def test_a_checkpoint_does_not_mix_up_distances_from_the_targets_own_output(tmp_path):
    """Both measures are exactly zero on the target: that cannot tell their data apart."""
    target, baseline = pair(convnet)
    ranking = random_scores(target)

    def distance(x):
        with torch.no_grad():
            own = target(x)
        return lambda model: squared_error(model(x), own)

    x = inputs_for(convnet).double()
    one, two = distance(x), distance(x.flip(3) + 1)
    expected = masking_curve(target, baseline, ranking, two, fractions=FEW)
    curves(target, baseline, [ranking], [one], fractions=FEW, checkpoint=tmp_path / "kept")
    try:
        ((found,),) = curves(
            target, baseline, [ranking], [two], fractions=FEW, checkpoint=tmp_path / "kept"
        )
    except CheckpointError:
        return
    torch.testing.assert_close(found.values, expected.values, **TIGHT)


def test_fractions_that_round_to_all_or_nothing():
    """At least one unit goes, and 0.999 of nine kernels is all of them."""
    target, baseline = pair(convnet)
    measure = measure_on(convnet)
    ranking = random_scores(target)
    found = masking_curve(target, baseline, ranking, measure, fractions=(0, 1e-9, 0.999, 1)).values
    first = measure(substitute(target, baseline, ranking.top(count=1))).detach()
    torch.testing.assert_close(found[1], first, **TIGHT)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])


# Mistakes


@EDITED
@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda m: torch.tensor(1.0), r"gave \(\): expected a tensor \(samples,\)"),
        (lambda m: 1.0, "gave float: expected"),
        (lambda m: torch.ones(2, 2), r"gave \(2, 2\)"),
        (lambda m: torch.ones(0), r"gave \(0,\)"),
        (lambda m: torch.tensor([1.0, math.nan]), "is nan for sample 1: expected a finite"),
        (lambda m: torch.tensor([-math.inf]), "is -inf for sample 0"),
    ],
)
def test_a_measure_gives_one_finite_number_a_sample(edit, measure, message):
    target, baseline = pair(convnet)
    with pytest.raises(ObjectiveError, match=message):
        edit(target, baseline, random_scores(target), measure, fractions=(0, 1))


@EDITED
def test_a_measure_is_always_of_the_same_samples(edit):
    target, baseline = pair(convnet)
    sizes = iter([2, 3])
    with pytest.raises(ObjectiveError, match=r"always of the same samples"):
        edit(
            target,
            baseline,
            random_scores(target),
            lambda m: torch.ones(next(sizes)),
            fractions=(0, 1),
        )


def never(model):
    raise AssertionError("measured before the mistake was found")


@EDITED
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fractions": (0, 1.5)}, UnitError, "fraction 1.5: expected a share"),
        ({"fractions": (-0.1, 1)}, UnitError, "fraction -0.1"),
        ({"fractions": (0, math.nan)}, UnitError, "fraction nan"),
        ({"fractions": ()}, UnitError, "there is no fraction"),
        ({"model": convnet().double().train()}, ModelError, "in training mode"),
        ({"baseline": tied()}, ModelError, "missing in the baseline"),
        (
            {"ranking": random_scores(tied(), reducer="scalar")},
            UnitError,
            "of another model",
        ),
    ],
)
def test_what_does_not_fit_is_found_before_measuring(edit, change, error, message):
    target, baseline = pair(convnet)
    arguments = {"model": target, "baseline": baseline, "ranking": random_scores(target)}
    with pytest.raises(error, match=message):
        edit(**{**arguments, "measure": never, "fractions": (0, 0.5, 1), **change})


def test_an_unknown_edit_is_refused():
    target, baseline = pair(convnet)
    with pytest.raises(UnitError, match="'deletion' is not known: expected 'masking' or"):
        curves(target, baseline, [random_scores(target)], [never], edit="deletion")


def test_fractions_are_sorted_and_once_each():
    assert with_fractions((1, 0.5, 0), 0.01, 0.5) == (0.0, 0.01, 0.5, 1.0)
    assert len(FRACTIONS) == 21
    assert FRACTIONS[1] == 0.05
    target, baseline = pair(convnet)
    found = masking_curve(
        target, baseline, random_scores(target), measure_on(convnet), fractions=[1, 0, 1, 0.5]
    )
    assert found.fractions == (0.0, 0.5, 1.0)


# Areas


def curve(values, fractions=None) -> Curve:
    """Make a curve of a list of fractions' values, one sample or several."""
    values = torch.as_tensor(values, dtype=torch.float64)
    values = values[:, None] if values.ndim == 1 else values
    places = fractions or tuple(np.linspace(0, 1, len(values)).tolist())
    return Curve(places, values)


def area_by_numpy(own: Curve, control: Curve) -> float:
    """Write the area out: a sum of trapezoids under the normalised means."""
    areas = []
    for one in (own, control):
        mean = one.values.numpy().mean(1)
        progress = (mean - mean[0]) / (mean[-1] - mean[0])
        steps = zip(one.fractions[1:], one.fractions[:-1], strict=True)
        areas.append(
            sum((b - a) * (progress[k] + progress[k + 1]) / 2 for k, (b, a) in enumerate(steps))
        )
    return (areas[0] - areas[1]) / (1 - areas[1])


@settings(max_examples=40)
@given(st.integers(3, 8), st.integers(1, 5), st.integers(0, 2**31), st.booleans())
def test_area_equals_the_sum_of_trapezoids(points, samples, seed, falling):
    draw = np.random.default_rng(seed)
    fractions = (0.0, *sorted(draw.uniform(0.01, 0.99, points - 2).tolist()), 1.0)
    ends = draw.uniform(1, 2, (2, samples)) + np.array([[0], [5]])
    inner = [draw.uniform(0, 8, (points - 2, samples)) for _ in range(2)]
    own, control = (
        curve(np.concatenate([ends[:1], i, ends[1:]]) * (-1 if falling else 1), fractions)
        for i in inner
    )
    found = own.area(control, Bootstrap(resamples=5))
    assert found.value == pytest.approx(area_by_numpy(own, control), rel=1e-9, abs=1e-9)


def test_area_at_its_marks():
    control = curve([0.0, 0.1, 0.4, 0.7, 1.0])
    assert control.area(control) == (0.0, 0.0, 0.0)
    worse = curve([0.0, 0.0, 0.0, 0.0, 1.0])
    assert worse.area(control).value < 0
    diagonal = curve([0.0, 0.25, 0.5, 0.75, 1.0])
    by_hand = [(0 + 0.6) / 2, (0.6 + 0.8) / 2, (0.8 + 1) / 2, 1]
    above = curve([0.0, 0.6, 0.8, 1.0, 1.0])
    assert above.area(diagonal).value == pytest.approx((sum(by_hand) / 4 - 0.5) / 0.5)


@pytest.mark.parametrize("first", [0.05, 0.25, 0.001])
def test_a_jump_at_once_is_1_but_for_the_first_trapezoid(first):
    """The step up over the first interval costs half of it: (1 - f/2 - A_c) / (1 - A_c)."""
    fractions = (0.0, first, 0.5, 1.0)
    jump = curve([3.0, 8.0, 8.0, 8.0], fractions)
    control = curve([3.0, 3 + 5 * first, 5.5, 8.0], fractions)  # even: its area is 1/2
    expected = (1 - first / 2 - 0.5) / (1 - 0.5)
    assert jump.area(control).value == pytest.approx(expected)
    assert jump.area(control).value == pytest.approx(1 - first)


def test_area_normalises_the_mean_and_not_each_sample():
    own = curve([[0.0, 0.0], [4.0, 0.0], [10.0, 1.0]])
    control = curve([[0.0, 0.0], [5.0, 0.5], [10.0, 1.0]])
    assert own.area(control).value == pytest.approx((4 / 11 + 1) / 2 - 0.5 + (4 / 11 - 1) / 2 + 0.0)
    assert own.area(control).value == pytest.approx(area_by_numpy(own, control))


def test_area_does_not_depend_on_the_measures_scale_and_sign():
    draw = torch.Generator().manual_seed(0)
    values, chance = (torch.rand(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    values[0], values[-1], chance[0], chance[-1] = 0, 2, 0, 2
    plain = curve(values).area(curve(chance))
    turned = curve(5 - 3 * values).area(curve(5 - 3 * chance))
    assert turned == pytest.approx(plain)


@pytest.mark.parametrize(
    ("own", "control", "message"),
    [
        (curve([0.0, 1.0, 1.0]), curve([0.0, 0.5, 0.5, 1.0]), "at different fractions"),
        (curve([0.0, 1.0]), curve([0.0, 1.0]), "with a fraction between"),
        (
            curve([0.0, 1.0, 2.0], (0.1, 0.5, 1.0)),
            curve([0.0, 1.0, 2.0], (0.1, 0.5, 1.0)),
            "from 0 to 1",
        ),
        (
            curve([0.0, 1.0, 2.0], (0.0, 0.5, 0.9)),
            curve([0.0, 1.0, 2.0], (0.0, 0.5, 0.9)),
            "from 0 to 1",
        ),
        (curve([1.0, 2.0, 1.0]), curve([1.0, 3.0, 1.0]), "the same with no unit and with all"),
    ],
)
def test_area_says_what_it_needs(own, control, message):
    with pytest.raises(UnitError, match=message):
        own.area(control)


# Intervals


def samples(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (1, size))


def at(values: np.ndarray, **more):
    return curve(values, (0.5,)).at(0.5, Bootstrap(**more))


def test_an_interval_is_that_of_resampled_means():
    values = samples(25)
    found = at(values, resamples=4000)
    assert found.value == pytest.approx(values.mean())
    draw = np.random.default_rng(1)
    means = values[0][draw.integers(25, size=(20000, 25))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    spread = values.std() / 5
    assert found.low == pytest.approx(low, abs=0.1 * spread)
    assert found.high == pytest.approx(high, abs=0.1 * spread)
    narrow = at(values, resamples=4000, level=0.5)
    low, high = np.quantile(means, [0.25, 0.75])
    assert narrow.low == pytest.approx(low, abs=0.1 * spread)
    assert narrow.high == pytest.approx(high, abs=0.1 * spread)


def test_intervals_hold_the_mean_and_shrink_as_samples_grow():
    """Of the same values four times over, the mean is twice as sure."""
    widths = []
    for times in (1, 4, 16):
        found = at(np.tile(samples(15), times), resamples=4000)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert [widths[0] / widths[1], widths[1] / widths[2]] == pytest.approx([2, 2], rel=0.08)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(150):
        found = at(samples(40, seed), resamples=300)
        covered += found.low <= 3 <= found.high
    assert 0.87 < covered / 150 < 0.99
    narrow = [at(samples(40, seed), resamples=300, level=0.5) for seed in range(150)]
    assert 0.37 < sum(f.low <= 3 <= f.high for f in narrow) / 150 < 0.62


def test_equal_samples_leave_no_doubt():
    same = curve([[1.0] * 6, [4.0] * 6, [5.0] * 6])
    control = curve([[1.0] * 6, [2.0] * 6, [5.0] * 6])
    assert same.at(0.5) == pytest.approx((4.0, 4.0, 4.0), abs=1e-12)
    found = same.area(control)
    assert found.low == pytest.approx(found.value)
    assert found.high == pytest.approx(found.value)
    assert curve([[2.0]], (0.0,)).at(0) == (2.0, 2.0, 2.0)


def test_intervals_are_the_same_at_each_call_and_leave_the_random_state_alone():
    values = samples(10)
    torch.manual_seed(0)
    before = torch.get_rng_state().clone()
    assert at(values) == at(values)
    assert torch.equal(torch.get_rng_state(), before)
    assert at(values) != at(values, seed=1)
    assert at(values, seed=1)[0] == at(values)[0]


def test_curves_are_resampled_together():
    """Samples differ much from each other, and by the same factor on both curves."""
    own = np.random.default_rng(0).uniform(1, 20, 12)
    one = curve(np.stack([0 * own, own, 3 * own]))
    two = curve(np.stack([0 * own, own / 2, 3 * own]))
    found = one.selectivity(two, 0.5)
    assert found == pytest.approx((2.0, 2.0, 2.0))
    area = one.area(two)
    assert area.low == pytest.approx(area.value)
    assert one.at(0.5).high - one.at(0.5).low > 1


def test_a_fraction_that_was_not_measured_is_refused():
    with pytest.raises(UnitError, match=r"fraction 0\.3 was not measured: expected one of"):
        curve([0.0, 1.0, 2.0]).at(0.3)


def test_curves_of_different_samples_are_resampled_apart():
    own, other = curve([[0.0] * 9, [2.0] * 9]), curve(np.stack([0 * samples(4)[0], samples(4)[0]]))
    found = own.selectivity(other, 1.0)
    assert found.value == pytest.approx(2 / samples(4).mean())
    ends = other.at(1.0)
    # A quantile of 2 / m is 2 / (a quantile of m), where the quantile is one of the resamples.
    assert (found.low, found.high) == pytest.approx((2 / ends.high, 2 / ends.low), rel=0.05)


# Selectivity


def test_selectivity_is_the_ratio_of_what_was_lost():
    own = curve([[1.0, 3.0], [7.0, 9.0], [0.0, 0.0]])
    other = curve([[2.0, 2.0], [1.0, 0.0], [2.0, 2.5]])
    assert own.selectivity(other, 0.5).value == pytest.approx(6 / 1.5)
    assert other.selectivity(own, 0.5).value == pytest.approx(1.5 / 6)
    assert own.selectivity(other, 1.0).value == pytest.approx(2 / 0.25)
    assert own.selectivity(own, 0.5) == (1.0, 1.0, 1.0)
    found = own.selectivity(other, 0.5)
    assert found.low <= found.value <= found.high


def test_selectivity_is_infinite_where_the_other_lost_nothing():
    own = curve([[1.0, 3.0], [7.0, 9.0]], (0.0, 0.5))
    flat = curve([[1.0, 2.0], [1.0, 2.0]], (0.0, 0.5))
    assert own.selectivity(flat, 0.5) == (math.inf, math.inf, math.inf)
    assert flat.selectivity(own, 0.5) == (0.0, 0.0, 0.0)


def test_selectivity_says_what_it_needs():
    own = curve([0.0, 1.0, 2.0])
    late = curve([0.0, 1.0], (0.5, 1.0))
    for one, two in ((own, late), (late, own)):
        with pytest.raises(UnitError, match="start the curves at 0"):
            one.selectivity(two, 0.5)
    with pytest.raises(UnitError, match="was not measured"):
        own.selectivity(own, 0.1)


def test_a_ranking_by_what_matters_has_the_larger_area():
    """On a sum of four weights the best order and its reverse are known in closed form."""
    target, baseline = (nn.Linear(4, 1, bias=False).double() for _ in range(2))
    with torch.no_grad():
        target.weight.zero_()
        baseline.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    x = torch.ones(3, 4, dtype=torch.float64)
    index = UnitIndex.of(target, "scalar")
    fractions = (0, 0.25, 0.5, 0.75, 1)

    def measured(values):
        ranking = Scores(index, torch.tensor(values))
        return masking_curve(target, baseline, ranking, lambda m: m(x)[:, 0], fractions=fractions)

    best, worst = measured([4.0, 3.0, 2.0, 1.0]), measured([1.0, 2.0, 3.0, 4.0])
    assert best.mean().tolist() == [0.0, 4.0, 7.0, 9.0, 10.0]
    assert worst.mean().tolist() == [0.0, 1.0, 3.0, 6.0, 10.0]
    areas = (0.625, 0.375)  # (4 + 7 + 9 + 5) / 40 and (1 + 3 + 6 + 5) / 40
    assert best.area(worst).value == pytest.approx((areas[0] - areas[1]) / (1 - areas[1]))
