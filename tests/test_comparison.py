"""Methods side by side: the curves of `masking_curve`, shared, averaged and put into tables."""

import pytest
import torch

from paramattr import (
    FAIG,
    Comparison,
    Scores,
    StraightLine,
    absolute_change,
    agreement,
    compare,
    contrast,
    insertion_curve,
    masking_curve,
    random_scores,
    squared_error,
    weight_magnitude,
)
from paramattr.errors import CheckpointError, ModelError, UnitError
from paramattr.faithfulness.comparison import CONTROL, distinct_scores
from paramattr.faithfulness.curves import Bootstrap
from paramattr.files.reading import load_tensors, save_state_dict
from tests.tiny import convnet, inputs_for, moved, seeded, tied

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = (0.0, 0.1, 0.5, 1.0)
BOOTSTRAP = Bootstrap(resamples=50)


class Counted:
    """A measure that counts its calls."""

    def __init__(self, seed, samples=3):
        self.x = inputs_for(convnet).double()[:samples]
        self.targets = seeded(lambda: torch.randn(samples, 2, dtype=torch.float64), seed)
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        return squared_error(model(self.x), self.targets)


@pytest.fixture
def pair():
    target = convnet().double()
    return target, moved(target)


@pytest.fixture
def measures():
    return {"blur": Counted(1), "noise": Counted(2)}


def rankings_of(target, baseline):
    return {
        "change": absolute_change(target, baseline),
        "own": {"blur": random_scores(target, seed=7), "noise": random_scores(target, seed=8)},
        "random": [random_scores(target, seed=seed) for seed in range(2)],
    }


@pytest.mark.parametrize(
    ("edit", "alone"), [("masking", masking_curve), ("insertion", insertion_curve)]
)
def test_every_curve_is_that_of_the_method_alone(pair, measures, edit, alone):
    rankings = rankings_of(*pair)
    found = compare(*pair, rankings, measures, fractions=FEW, edit=edit)
    assert list(found.curves) == [
        (method, function, measured)
        for method in rankings
        for function in measures
        for measured in measures
    ]
    assert found.fractions == FEW
    for (method, function, measured), curve in found.curves.items():
        several = rankings[method]
        several = several[function] if isinstance(several, dict) else several
        several = [several] if isinstance(several, Scores) else several
        parts = [alone(*pair, s, measures[measured], fractions=FEW).values for s in several]
        expected = sum(parts[1:], parts[0]) / len(parts)
        torch.testing.assert_close(curve.values, expected, rtol=1e-12, atol=1e-12)
        assert curve.fractions == FEW
        assert found.rankings[method][function] == several
    # What is compared differs at all.
    middle = {key: float(curve.mean()[2]) for key, curve in found.curves.items()}
    assert len({round(value, 6) for key, value in middle.items() if key[0] == "own"}) == 4


def test_what_is_shared_is_measured_once(pair, measures):
    rankings, steps = rankings_of(*pair), []
    compare(*pair, rankings, measures, fractions=FEW, advance=steps.append)
    distinct = [rankings["change"], *rankings["own"].values(), *rankings["random"]]
    tops = {tuple(s.top(count=round(f * len(s))).chosen.tolist()) for s in distinct for f in FEW}
    assert {m.calls for m in measures.values()} == {len(tops)}
    assert steps == [1] * (len(distinct) * len(FEW))


def test_distinct_scores_are_listed_once(pair):
    one, two = (random_scores(pair[0], seed=seed) for seed in (1, 2))
    spread = {"a": {"f": [one, two], "g": [one]}, "b": {"f": [two], "g": [two]}}
    assert list(map(id, distinct_scores(spread))) == [id(one), id(two)]


def test_a_missing_control_is_three_random_draws(pair, measures):
    found = compare(*pair, {"change": absolute_change(*pair)}, measures, fractions=FEW)
    draws = found.rankings[CONTROL]
    assert list(found.rankings) == ["change", CONTROL]
    assert draws["blur"] == draws["noise"]
    assert len(draws["blur"]) == 3
    for place, one in enumerate(draws["blur"]):
        assert torch.equal(one.values, random_scores(pair[0], seed=place).values)
    parts = [masking_curve(*pair, s, measures["blur"], fractions=FEW).values for s in draws["blur"]]
    torch.testing.assert_close(found.curves[CONTROL, "noise", "blur"].values, sum(parts) / 3)
    again = compare(*pair, {"change": absolute_change(*pair)}, measures, fractions=FEW)
    for key, curve in found.curves.items():
        assert torch.equal(curve.values, again.curves[key].values)


def test_a_control_that_is_given_is_kept(pair, measures):
    own = random_scores(pair[0], seed=77)
    found = compare(*pair, {"random": own}, measures, fractions=FEW)
    assert found.rankings == {"random": {"blur": [own], "noise": [own]}}
    for row in found.areas():
        assert row["value"] == row["low"] == row["high"] == 0


def test_rankings_and_the_random_state_are_left_alone(pair, measures):
    rankings = rankings_of(*pair)
    del rankings["random"]
    torch.manual_seed(3)
    before = torch.get_rng_state().clone()
    state = {name: value.clone() for name, value in pair[0].state_dict().items()}
    compare(*pair, rankings, measures, fractions=FEW)
    assert list(rankings) == ["change", "own"]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(pair[0].state_dict()[name], value) for name, value in state.items())


# Tables


@pytest.fixture
def comparison(pair, measures):
    return compare(*pair, rankings_of(*pair), measures, fractions=FEW, bootstrap=BOOTSTRAP)


def test_rows_hold_every_curves_values(comparison):
    rows = comparison.rows()
    assert len(rows) == len(comparison.curves) * len(FEW)
    keys = ["method", "function", "measured", "fraction", "value", "low", "high"]
    for row in rows:
        assert list(row) == keys
        curve = comparison.curves[row["method"], row["function"], row["measured"]]
        assert row["value"] == pytest.approx(float(curve.mean()[FEW.index(row["fraction"])]))
        assert tuple(row.values())[4:] == curve.at(row["fraction"], BOOTSTRAP)
    some = comparison.rows([0.5, 0.1])
    assert some == [row for row in rows if row["fraction"] in (0.1, 0.5)]
    with pytest.raises(UnitError, match=r"0\.3 was not measured"):
        comparison.rows([0.3])


def test_areas_are_of_each_functions_own_measure(comparison):
    areas = comparison.areas()
    assert [(row["method"], row["function"]) for row in areas] == [
        (method, function) for method in comparison.rankings for function in ("blur", "noise")
    ]
    for row in areas:
        own = comparison.curves[row["method"], row["function"], row["function"]]
        control = comparison.curves["random", row["function"], row["function"]]
        assert tuple(row.values())[2:] == own.area(control, BOOTSTRAP)
        assert (row["value"] == 0) == (row["method"] == "random")
        assert list(row) == ["method", "function", "value", "low", "high"]


def test_selectivity_divides_by_each_other_function(comparison):
    rows = comparison.selectivity(0.5)
    assert [(r["method"], r["function"], r["other"]) for r in rows] == [
        (method, *pair)
        for method in comparison.rankings
        for pair in (("blur", "noise"), ("noise", "blur"))
    ]
    for row in rows:
        key = (row["method"], row["function"])
        own, other = (comparison.curves[(*key, m)].mean() for m in (key[1], row["other"]))
        expected = abs(float(own[2] - own[0])) / abs(float(other[2] - other[0]))
        assert row["value"] == pytest.approx(expected)
        assert row["fraction"] == 0.5
        assert row["low"] <= row["high"]


def test_agreements_are_of_every_two_methods(comparison):
    rows = comparison.agreements(0.25)
    assert [(r["method"], r["other"], r["function"]) for r in rows] == [
        (one, two, function)
        for one, two in (("change", "own"), ("change", "random"), ("own", "random"))
        for function in ("blur", "noise")
    ]
    for row in rows:
        one, two = (
            comparison.rankings[row[which]][row["function"]][0] for which in ("method", "other")
        )
        found = agreement(one, two, fraction=0.25)
        assert (row["spearman"], row["overlap"]) == found


def test_the_default_bootstrap_has_1000_resamples_at_95_percent(pair, measures):
    found = compare(*pair, {"change": absolute_change(*pair)}, measures, fractions=(0, 1))
    assert found.bootstrap == Bootstrap(level=0.95, resamples=1000, seed=0)
    assert (
        compare(
            *pair, {"c": absolute_change(*pair)}, measures, fractions=(0, 1), bootstrap=BOOTSTRAP
        ).bootstrap
        == BOOTSTRAP
    )


def test_functions_may_be_measured_on_different_samples(pair):
    found = compare(
        *pair,
        {"change": absolute_change(*pair)},
        {"blur": Counted(1), "noise": Counted(2, samples=2)},
        fractions=FEW,
    )
    assert found.curves["change", "blur", "noise"].values.shape == (len(FEW), 2)
    assert len(found.selectivity(0.5)) == 4
    assert len(found.areas()) == 4


def test_an_interrupted_comparison_goes_on_from_its_checkpoint(pair, measures, tmp_path):
    rankings = rankings_of(*pair)
    straight = compare(*pair, rankings, measures, fractions=FEW)
    whole = measures["noise"].calls
    measures["noise"].calls = 0

    def stopping(model):
        if measures["noise"].calls == 5:
            raise KeyboardInterrupt
        return measures["noise"](model)

    file = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        compare(*pair, rankings, {**measures, "noise": stopping}, fractions=FEW, checkpoint=file)
    measures["noise"].calls = 0
    resumed = compare(*pair, rankings, measures, fractions=FEW, checkpoint=file)
    assert measures["noise"].calls == whole - 5 + 3  # both models, at each start
    for key, curve in straight.curves.items():
        assert torch.equal(curve.values, resumed.curves[key].values)
    with pytest.raises(CheckpointError, match="other"):
        compare(*pair, rankings, measures, fractions=FEW, checkpoint=file, edit="insertion")


def test_some_samples_are_compared_as_if_they_were_all(pair, measures):
    rankings = rankings_of(*pair)

    def some(function):
        return lambda model: measures[function](model)[1:3]

    found = compare(*pair, rankings, measures, fractions=FEW, bootstrap=BOOTSTRAP).on(slice(1, 3))
    few = {function: some(function) for function in measures}
    expected = compare(*pair, rankings, few, fractions=FEW, bootstrap=BOOTSTRAP)
    assert found.rows() == expected.rows()
    assert found.areas() == expected.areas()
    assert found.rankings == expected.rankings


# Mistakes, before any measuring


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rankings": {}}, UnitError, "at least one ranking and one measure"),
        ({"measures": {}}, UnitError, "at least one ranking and one measure"),
        (
            {"rankings": {"own": {"blur": random_scores(convnet())}}},
            UnitError,
            "method 'own' has no ranking for 'noise': found 'blur'",
        ),
        ({"rankings": {"own": {}}}, UnitError, "no ranking for 'blur': found none"),
        ({"rankings": {"own": []}}, UnitError, r"of method 'own' is \[\]: expected Scores"),
        ({"rankings": {"own": [torch.ones(12)]}}, UnitError, "expected Scores, or a list"),
        ({"rankings": {"own": 3}}, UnitError, "method 'own' is 3: expected"),
        (
            {
                "rankings": {
                    "own": random_scores(convnet()),
                    "other": random_scores(convnet(), reducer="scalar"),
                }
            },
            UnitError,
            "comparing 'other' needs the same units",
        ),
        (
            {
                "rankings": {
                    "own": [random_scores(convnet()), weight_magnitude(tied(), reducer="layer")]
                }
            },
            UnitError,
            "comparing 'own' needs the same units",
        ),
        (
            {"rankings": {"own": random_scores(tied(), reducer="scalar")}},
            UnitError,
            "of another model",
        ),
        ({"fractions": (0, 2)}, UnitError, "fraction 2: expected a share"),
        ({"fractions": ()}, UnitError, "there is no fraction"),
        ({"edit": "deletion"}, UnitError, "'deletion' is not known"),
        ({"model": convnet().double().train()}, ModelError, "in training mode"),
        ({"baseline": tied()}, ModelError, "missing in the baseline"),
    ],
)
def test_mistakes_are_found_before_measuring(pair, measures, change, error, message):
    arguments = {
        "model": pair[0],
        "baseline": pair[1],
        "rankings": {"change": absolute_change(*pair)},
        "measures": measures,
        "fractions": FEW,
    }
    with pytest.raises(error, match=message):
        compare(**{**arguments, **change})
    assert [m.calls for m in measures.values()] == [0, 0]


def test_leads_are_paired_differences_from_the_first_method(pair, measures):
    rankings = rankings_of(*pair)
    comparison = compare(*pair, rankings, measures, fractions=FEW)
    first, fraction = next(iter(rankings)), FEW[1]
    rows = comparison.leads(fraction)
    assert {row["other"] for row in rows} == {*rankings, "random"} - {first}
    for row in rows:
        assert row["method"] == first
        own, other = (
            comparison.curves[method, row["function"], row["function"]].values[1]
            for method in (first, row["other"])
        )
        assert row["value"] == pytest.approx(float((own - other).mean()))
        assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize("edit", ["masking", "insertion"])
def test_edits_toward_a_near_point_are_judged_against_the_baseline(pair, measures, edit):
    target, baseline = pair
    near = StraightLine(target, baseline).evaluate(0.25)
    given = {"truth": measures, "edit": edit, "fractions": FEW}
    rankings = rankings_of(target, baseline)
    found = compare(target, baseline, rankings, measures, toward=near, **given)
    alone = compare(target, near, rankings, measures, **given)
    plain = compare(target, baseline, rankings, measures, **given)
    for key, curve in found.curves.items():
        assert torch.equal(curve.values, alone.curves[key].values)
        assert not torch.equal(curve.values, plain.curves[key].values)
    for function, ends in found.truth.ends.items():
        assert torch.equal(ends.baseline, plain.truth.ends[function].baseline)
        assert not torch.equal(ends.baseline, alone.truth.ends[function].baseline)


# Files and frames


def known(pair, measures, **options):
    target, baseline = pair
    given = {"fractions": FEW, "bootstrap": BOOTSTRAP, "truth": measures, **options}
    return compare(target, baseline, rankings_of(target, baseline), measures, **given)


@pytest.mark.parametrize("options", [{}, {"truth": None}, {"edit": "insertion"}])
def test_a_comparison_that_was_saved_says_all_it_said(pair, measures, tmp_path, options):
    found = known(pair, measures, **options)
    found.save(tmp_path / "found.safetensors")
    loaded = Comparison.load(tmp_path / "found.safetensors")
    assert (loaded.fractions, loaded.bootstrap) == (found.fractions, found.bootstrap)
    asked = [
        lambda c: c.rows(),
        lambda c: c.areas(),
        lambda c: c.leads(0.5),
        lambda c: c.selectivity(0.5),
        lambda c: c.agreements(0.5),
        lambda c: c.on(slice(0, 2)).rows(),
        *([] if found.truth is None else [lambda c: c.damage()]),
    ]
    for ask in asked:
        assert repr(ask(loaded)) == repr(ask(found))  # NaN, too


def test_saved_rankings_are_the_scores_they_were(pair, measures, tmp_path):
    target, baseline = pair
    loaders = {name: [(m.x, m.targets)] for name, m in measures.items()}
    scores = FAIG(target, baseline).score(loaders, reducer="kernel", n_steps=2)
    signed = {name: own.by("sign") for name, own in scores.items()}
    found = compare(target, baseline, {"FAIG": scores, "signed": signed}, measures, fractions=FEW)
    found.save(tmp_path / "found")
    loaded = Comparison.load(tmp_path / "found").rankings
    assert {name: list(own) for name, own in loaded.items()} == {
        name: list(own) for name, own in found.rankings.items()
    }
    for method in ("FAIG", "signed"):
        for both in (found.rankings, loaded):
            assert len(both["random"]["blur"]) == 3
        difference, expected = (
            contrast(*(both[method][name][0] for name in measures))
            for both in (loaded, found.rankings)
        )
        assert torch.equal(difference.values, expected.values)
        assert torch.equal(difference.standard_error, expected.standard_error)  # paired
    # One ranking that serves several functions is kept once.
    one, two = (loaded["random"][name][0] for name in measures)
    assert one is two


def test_a_frame_has_a_row_for_each_measured_value(pair, measures):
    pandas = pytest.importorskip("pandas")
    found = known(pair, measures)
    rows, frame = found.rows(), found.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(rows[0])
    assert len(frame) == len(rows) == 3 * 2 * 2 * len(FEW)
    assert frame["value"].tolist() == [row["value"] for row in rows]
    assert len(found.to_dataframe([0.5])) == len(rows) / len(FEW)


def test_a_file_of_something_else_is_no_comparison(pair, measures, tmp_path):
    found = known(pair, measures)
    scores = next(iter(found.rankings.values()))["blur"][0]
    scores.save(tmp_path / "scores")
    with pytest.raises(CheckpointError, match=r"holds scores: expected a comparison"):
        Comparison.load(tmp_path / "scores")
    with pytest.raises(CheckpointError, match="nothing"):
        Comparison.load(tmp_path / "nothing")
    found.save(tmp_path / "found")
    tensors, metadata = load_tensors(tmp_path / "found")
    name = next(name for name in tensors if name.startswith("curves."))
    for broken in ({name: tensors[name][1:]}, {name: tensors[name].to(torch.int64)}):
        save_state_dict(tmp_path / "broken", {**tensors, **broken}, metadata)
        with pytest.raises(CheckpointError, match="does not hold a comparison"):
            Comparison.load(tmp_path / "broken")
    del tensors[name]
    save_state_dict(tmp_path / "broken", tensors, metadata)
    with pytest.raises(CheckpointError, match="does not hold a comparison"):
        Comparison.load(tmp_path / "broken")
