"""Response curves and severities against regressions written out sample by sample."""

import pytest
import torch
from torch import nn

from paramattr import FAIG, OverlapRegressor, Response, Scores, UnitIndex
from paramattr.errors import CheckpointError, DataError, ParamattrError, UnitError
from tests.tiny import SMALL

LEVELS = (0.5, 1.0, 4.0)


def ranked(*best: int) -> Scores:
    values = torch.zeros(len(SMALL))
    for place, unit in enumerate(best):
        values[unit] = len(SMALL) - place
    return Scores(SMALL, values)


def found(**units):
    return {name: ranked(*own).top(count=len(own)) for name, own in units.items()}


def at_levels(samples: int):
    torch.manual_seed(0)
    baseline, target = nn.Linear(3, 2), nn.Linear(3, 2)
    inputs, truths = torch.randn(samples, 3), torch.randn(samples, 2)
    loaders = {
        str(s): [(s * x[None], y[None]) for x, y in zip(inputs, truths, strict=True)]
        for s in LEVELS
    }
    return FAIG(target, baseline), loaders


def test_the_slope_and_its_error_are_those_of_each_samples_own_line():
    faig, loaders = at_levels(5)
    together = faig.score(loaders, reducer="scalar")
    response = Response({float(s): own for s, own in together.items()})
    single = torch.stack(
        [
            torch.stack([faig.score([own], reducer="scalar").values for own in loaders[str(s)]])
            for s in LEVELS
        ]
    )  # levels, samples, units
    design = torch.tensor([[1.0, s] for s in LEVELS], dtype=torch.float64)
    slopes = torch.stack([torch.linalg.lstsq(design, single[:, n]).solution[1] for n in range(5)])
    torch.testing.assert_close(response.slope.values, slopes.mean(0))
    torch.testing.assert_close(response.slope.standard_error, slopes.std(0) / 5**0.5)
    # Samples taken for independent would give another error: the pairing is what is tested.
    apart = Response({s: faig.score(loaders[str(s)], reducer="scalar") for s in LEVELS})
    assert not torch.allclose(apart.slope.standard_error, response.slope.standard_error, rtol=0.05)
    torch.testing.assert_close(apart.slope.values, response.slope.values)
    torch.testing.assert_close(response.middle.values, single.mean((0, 1)))


def test_the_explained_share_is_one_for_a_line_only():
    index = UnitIndex.of(nn.Linear(3, 1, bias=False), "scalar")
    curves = torch.tensor([[1.0, 1.0, 2.0], [2.0, 4.0, 2.0], [5.0, 1.0, 2.0]])
    given = {
        s: Scores(index, own) for s, own in zip((3.0, 0.0, 1.0), curves[[2, 0, 1]], strict=True)
    }
    response = Response(given)
    assert response.severities.tolist() == [0.0, 1.0, 3.0]
    assert torch.equal(response.values, curves.double())
    share = response.explained
    assert share[2].isnan()
    for unit in (0, 1):
        r = torch.corrcoef(torch.stack([response.severities, response.values[:, unit]]))[0, 1]
        torch.testing.assert_close(share[unit], r**2)
    assert 0.9 < share[0] < 1


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({1.0: ranked(0)}, "1 severities"),
        ({"strong": ranked(0), 1.0: ranked(0)}, "'strong' is no finite number"),
        ({float("nan"): ranked(0), 1.0: ranked(0)}, "nan is no finite number"),
        ({0.0: ranked(0), 1.0: ranked(0).values}, "expected Scores"),
        (
            {0.0: ranked(0), 1.0: Scores(UnitIndex.of(nn.Linear(1, 1), "scalar"), torch.ones(2))},
            "response to a severity",
        ),
    ],
)
def test_what_is_no_response_is_refused(scores, said):
    with pytest.raises(UnitError, match=said):
        Response(scores)


FOUND = found(a=(0, 1, 2, 3), b=(4, 5))


def test_severities_are_least_squares_over_powers_of_the_overlaps():
    torch.manual_seed(0)
    overlaps = {name: torch.rand(12, dtype=torch.float64) for name in FOUND}
    a, b = overlaps["a"], overlaps["b"]
    sigma = 1 + 2 * a - 3 * a**2 + b**2
    noise = torch.rand(12, dtype=torch.float64)
    regressor = OverlapRegressor(FOUND).fit_scores(overlaps, {"sigma": sigma, "noise": noise})
    torch.testing.assert_close(regressor.predict_scores(overlaps)["sigma"], sigma)
    design = torch.stack([torch.ones(12).double(), a, a**2, b, b**2], 1)
    solved = torch.linalg.solve(design.T @ design, design.T @ noise)
    wanted = (design @ solved).clamp(noise.min(), noise.max())
    torch.testing.assert_close(regressor.predict_scores(overlaps)["noise"], wanted)
    # A line cannot bend: with the degree 1 the same severities are not met.
    straight = OverlapRegressor(FOUND, degree=1).fit_scores(overlaps, {"sigma": sigma})
    assert (straight.predict_scores(overlaps)["sigma"] - sigma).abs().max() > 0.05


def test_samples_are_ranked_and_predictions_stay_within_the_fitted_severities():
    samples = [ranked(0, 1, 2, 3), ranked(0, 1, 8, 7), ranked(8, 7, 6, 5)]
    only_a = {"a": FOUND["a"]}
    regressor = OverlapRegressor(only_a, degree=1).fit(samples[1:], {"sigma": [2.0, 1.0]})
    assert regressor.scores(samples)["a"].tolist() == [1.0, 0.5, 0.0]
    assert regressor.predict(samples)["sigma"].tolist() == pytest.approx([2.0, 2.0, 1.0])
    by_number = OverlapRegressor(only_a, lambda k: samples[k], degree=1)
    assert by_number.fit([1, 2], {"sigma": [2.0, 1.0]}).lines == regressor.lines


def test_overlaps_that_do_not_vary_are_no_error():
    same = {name: torch.full((6,), 0.5) for name in FOUND}
    regressor = OverlapRegressor(FOUND).fit_scores(same, {"sigma": [1.0, 2, 3, 1, 2, 3]})
    assert regressor.predict_scores(same)["sigma"].tolist() == pytest.approx([2.0] * 6)


def test_it_is_saved_and_loaded(tmp_path):
    overlaps = {name: torch.rand(9) for name in FOUND}
    severities = {"sigma": torch.rand(9)}
    regressor = OverlapRegressor(FOUND, notes={"pct": 1}).fit_scores(overlaps, severities)
    regressor.save(tmp_path / "file.safetensors")
    again = OverlapRegressor.load(tmp_path / "file.safetensors")
    assert (again.found, again.notes, again.lines) == (FOUND, {"pct": 1}, regressor.lines)
    assert torch.equal(
        again.predict_scores(overlaps)["sigma"], regressor.predict_scores(overlaps)["sigma"]
    )
    ranked(0).save(tmp_path / "scores.safetensors")
    with pytest.raises(CheckpointError, match=r"expected an overlap regressor.*OverlapRegressor"):
        OverlapRegressor.load(tmp_path / "scores.safetensors")


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        ({}, "there is no severity"),
        ({"sigma": [1.0, 2.0]}, r"shape \(2,\): expected one finite number for each of 6"),
        ({"sigma": [1.0, 2, 3, 4, 5, float("nan")]}, "finite"),
    ],
)
def test_severities_that_do_not_fit_are_refused(severities, said):
    regressor = OverlapRegressor(FOUND)
    with pytest.raises(DataError, match=said):
        regressor.fit_scores({name: torch.rand(6) for name in FOUND}, severities)


def test_too_few_samples_an_odd_degree_and_no_fit_are_refused():
    few = {name: torch.rand(3) for name in FOUND}
    with pytest.raises(DataError, match="3 samples for 5 weights"):
        OverlapRegressor(FOUND).fit_scores(few, {"sigma": [1.0, 2.0, 3.0]})
    for degree in (0, 1.5, True):
        with pytest.raises(ParamattrError, match="degree"):
            OverlapRegressor(FOUND, degree=degree)
    with pytest.raises(ParamattrError, match="call fit first"):
        OverlapRegressor(FOUND).predict([ranked(0)])
    fitted = OverlapRegressor(FOUND).fit_scores(
        {name: torch.rand(6) for name in FOUND}, {"sigma": torch.rand(6)}
    )
    with pytest.raises(ParamattrError, match="5 coefficients: expected 3"):
        OverlapRegressor(FOUND, degree=1, lines=fitted.lines)
