"""Damage: the same drop, once a lost function and once a broken network."""

import copy
import math

import pytest
import torch
from torch import nn

from paramattr import Bootstrap, Scores, UnitIndex, compare, squared_error
from paramattr.errors import UnitError
from paramattr.faithfulness.curves import Curve
from paramattr.faithfulness.masking import Ends, Truth
from tests.tiny import seeded

pytestmark = pytest.mark.usefixtures("one_thread")
BOOTSTRAP = Bootstrap(resamples=200)
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Sum(nn.Module):
    """Four weights: what matters for "own", for "other", and a pair that cancels out."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, x):
        own, other, one, two = self.weight
        return torch.stack([own * x[:, 0], other * x[:, 1], one * two * x[:, 0]], 1).sum(1)


# The target learned the first weight. The last two changed as well and their product did not:
# exchanging one of them alone breaks what exchanging both leaves alone.
TARGET, BASELINE = Sum(1.0, 1.0, 2.0, 0.5).eval(), Sum(0.0, 1.0, 0.25, 4.0).eval()
INDEX = UnitIndex.of(TARGET, "scalar")
X = seeded(lambda: 1 + torch.rand(2, 12, dtype=torch.float64))


def measures():
    own = torch.stack([X[0], torch.zeros(12)], 1)
    other = torch.stack([torch.zeros(12), X[1]], 1)
    with torch.no_grad():
        outputs = {"own": TARGET(own), "other": TARGET(other)}
    inputs = {"own": own, "other": other}

    def distance(name):
        return lambda model: squared_error(model(inputs[name])[:, None], outputs[name][:, None])

    return {name: distance(name) for name in outputs}


def ranked(*order):
    values = torch.zeros(4, dtype=torch.float64)
    for place, unit in enumerate(order):
        values[unit] = 4.0 - place
    return Scores(INDEX, values)


def comparison(**options):
    rankings = {
        "function": ranked(0, 1, 2, 3),
        "broken": ranked(3, 0, 1, 2),
        "random": ranked(1, 0, 2, 3),
    }
    own = {"fractions": FRACTIONS, "bootstrap": BOOTSTRAP, "truth": measures(), **options}
    return compare(TARGET, BASELINE, rankings, measures(), **own)


def test_beyond_the_baseline_is_damage_and_the_function_alone_is_not():
    found = {(r["method"], r["function"], r["fraction"]): r for r in comparison().damage()}
    lost = found["function", "own", 0.25]
    assert lost["lost_share"] == pytest.approx(1)
    assert not lost["damage"]
    assert lost["reason"] == ""
    assert lost["selectivity"] == math.inf  # the other function lost nothing
    # 4 * 2 in the place of 0.5 * 2: seven times as far from the truth as the baseline.
    broken = found["broken", "own", 0.25]
    assert broken["lost_share"] == pytest.approx(49)
    assert broken["damage"]
    assert broken["reason"] == "worse than the baseline"
    # The drop alone does not tell the two: it is the larger for the broken one.
    rows = {(r["method"], r["fraction"]): r for r in comparison().rows() if r["measured"] == "own"}
    assert rows["broken", 0.25]["value"] > rows["function", 0.25]["value"]
    for method in ("function", "broken"):
        assert not found[method, "own", 0.0]["damage"]
        assert found[method, "own", 1.0]["lost_share"] == pytest.approx(1)
        assert not found[method, "own", 1.0]["damage"]


def test_rows_carry_the_verdict_only_with_the_truth():
    known, unknown = comparison(), comparison(truth=None)
    for row, plain in zip(known.rows(), unknown.rows(), strict=True):
        assert {key: row[key] for key in plain} == plain
        assert set(row) - set(plain) == {
            *("lost_share", "lost_low", "lost_high", "damage", "selective", "reason")
        }
        is_gained = row["measured"] == "own"
        assert math.isnan(row["lost_share"]) != is_gained  # on "other" there is nothing to lose
    with pytest.raises(UnitError, match="does not know the truth"):
        unknown.damage()


@pytest.fixture
def judged():
    """Judge an edit by how far the objective rises on the own condition and on the other."""
    draw = torch.Generator().manual_seed(0)
    target, baseline = (torch.rand(10, generator=draw).double() + k for k in (0, 5))
    ends = {"own": Ends(target, baseline), "other": Ends(target, baseline)}
    gain = baseline - target

    def judge(own, other, edit="masking", conditions=("own", "other")):
        curves = {
            ("m", "own", name): Curve((0.0, 0.5), torch.stack([target, target + gain * rise]))
            for name, rise in (("own", own), ("other", other))
        }
        known = {name: ends[name] for name in conditions}
        return Truth(known, curves, edit).judged("m", "own", 0.5, BOOTSTRAP)

    return judge


def chance():
    """Give what ten samples differ by, by chance: 0.02 on average."""
    noise = 2 * torch.randn(10, generator=torch.Generator().manual_seed(1)).double()
    return noise - noise.mean() + 0.02


def test_damage_is_a_lost_share_whose_interval_lies_above_a_tenth_more_than_all(judged):
    exact = judged(1.016, 0.0)  # as an exact planted list
    assert exact.lost.low > 1
    assert exact.lost.value == pytest.approx(1.016)
    assert (exact.damage, exact.reason) == (False, "")
    assert not judged(1.09, 0.0).damage
    assert judged(1.2, 0.0).damage
    assert judged(1.2, 0.0).reason == "worse than the baseline"
    assert not judged(1.2 + chance(), 0.0).damage  # over samples it could be chance


def test_what_costs_another_condition_more_is_not_selective_and_no_damage(judged):
    costly = judged(0.2, 0.4)
    assert (costly.damage, costly.selective) == (False, False)
    assert costly.reason == "not selective: costs 'other' more than 'own'"
    for own, other in ((0.4, 0.2), (0.2, 0.2), (0.2, 0.2 + chance())):
        assert (judged(own, other).selective, judged(own, other).reason) == (True, "")
    both = judged(1.8, 4.0)
    assert (both.damage, both.selective) == (True, False)
    assert both.reason == ("worse than the baseline; not selective: costs 'other' more than 'own'")


def test_where_nothing_is_beside_it_selectivity_is_not_known(judged):
    # An insertion gives the own function back first, which is what it is for.
    assert judged(0.2, 0.4, edit="insertion").selective is None
    assert judged(0.2, 0.4, conditions=("own",)).selective is None
    assert judged(0.2, 0.4, edit="insertion").reason == ""


def test_the_lost_share_is_that_of_the_means_with_paired_samples():
    draw = torch.Generator().manual_seed(1)
    target, baseline, edited = (torch.rand(9, generator=draw).double() + k for k in (0, 4, 2))
    curve = Curve((0.0, 0.5), torch.stack([target, edited]))
    truth = Truth({"own": Ends(target, baseline)}, {("m", "own", "own"): curve})
    found = truth.lost_share("m", "own", "own", 0.5, BOOTSTRAP)
    expected = (edited.mean() - target.mean()) / (baseline.mean() - target.mean())
    assert found.value == pytest.approx(float(expected))
    assert found.low < found.value < found.high
    # Where the fine-tuning gained nothing there is nothing to lose a share of.
    same = Truth({"own": Ends(target, target)}, {("m", "own", "own"): curve})
    assert math.isnan(same.lost_share("m", "own", "own", 0.5, BOOTSTRAP).value)
    assert not same.judged("m", "own", 0.5, BOOTSTRAP).damage


def test_some_samples_are_judged_as_if_they_were_all():
    whole = comparison()
    part = whole.on(slice(0, 6))
    assert len(part.truth.ends["own"].target) == 6
    row = part.damage([0.25])[0]
    assert row["lost_share"] == pytest.approx(1)
    few = comparison(truth={n: lambda m, f=f: f(m)[:3] for n, f in measures().items()})
    assert len(few.on(slice(0, 6)).truth.ends["own"].target) == 3


def test_conditions_beside_the_functions_are_watched_too():
    watched = {"own": measures()["own"]}
    everything = ranked(1, 0, 2, 3)
    found = compare(
        TARGET,
        Sum(0.0, 0.0, 2.0, 0.5).eval(),
        {"all": everything},
        watched,
        fractions=FRACTIONS,
        truth=measures(),
        bootstrap=BOOTSTRAP,
    )
    rows = {(r["method"], r["fraction"]): r for r in found.damage()}
    assert rows["all", 0.25]["reason"] == "not selective: costs 'other' more than 'own'"
    assert (rows["all", 0.25]["damage"], rows["all", 0.25]["selective"]) == (False, False)
    assert rows["all", 0.25]["selectivity"] is None
    with pytest.raises(UnitError, match="function 'own' has no truth: found 'other'"):
        compare(TARGET, BASELINE, {"a": everything}, watched, truth={"other": measures()["other"]})


def test_the_models_are_as_they_were():
    before = copy.deepcopy(TARGET.state_dict())
    comparison()
    assert all(torch.equal(value, TARGET.state_dict()[n]) for n, value in before.items())


def test_a_figure_crosses_damage_out():
    pytest.importorskip("matplotlib")
    from paramattr.plots import plot_comparison

    def crosses(found):
        axes = plot_comparison(found).axes
        return sum(
            len(line.get_xdata()) for a in axes for line in a.lines if line.get_marker() == "x"
        )

    known = comparison()
    damaged = sum(row["damage"] for row in known.damage())
    assert damaged > 0
    assert crosses(known) == damaged * len(measures())
    assert crosses(comparison(truth=None)) == 0


def test_the_legend_says_what_crosses_are_where_there_are_some():
    pytest.importorskip("matplotlib")
    from paramattr.plots import plot_comparison

    def legend(found):
        (own,) = plot_comparison(found).legends
        return [text.get_text() for text in own.get_texts()]

    methods = list(comparison().rankings)
    assert legend(comparison()) == [*methods, "damage"]
    assert legend(comparison(truth=None)) == methods
    assert legend(comparison(fractions=(0.0, 1.0))) == methods  # nothing is crossed out
