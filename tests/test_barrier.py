"""A barrier on the path is told once; a path without one, and an unchanged condition, are not."""

import copy
import warnings

import pytest
import torch
from torch import nn

from paramattr import FAIG, PathProfile
from paramattr.errors import ParamattrError
from tests.tiny import convnet, inputs_for, moved

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"reducer": "layer", "n_steps": 4}


class Tent(nn.Module):
    """A loss with a hill between its two ends, which only inputs of the first column see."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(place))

    def forward(self, x):
        return (self.place + 20 * self.place * (1 - self.place)) * x[:, 0] + x[:, 1]


def pair():
    return Tent(0.0).eval(), Tent(1.0).eval()


def loss(output, targets):
    return output


HILL, FLAT = torch.tensor([[1.0, 1.0]] * 3), torch.tensor([[1e-3, 1.0]] * 3)


def barriers(caught):
    return [w for w in caught if str(w.message).startswith("barrier")]


def test_the_profile_is_the_objective_at_each_place():
    faig = FAIG(*pair(), objective=loss)
    found = faig.path_profile([HILL[:2], HILL[2:]], n_points=5)
    places = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.equal(found.alphas, places)
    torch.testing.assert_close(found.values, 1 + places + 20 * places * (1 - places))
    assert found.barrier == pytest.approx(5)
    assert found.samples == 3
    assert "barrier 5" in repr(found)
    with pytest.raises(ParamattrError, match="at least 3"):
        faig.path_profile([HILL], n_points=2)


def test_a_planted_barrier_warns_once_and_names_the_ways_out():
    faig = FAIG(*pair(), objective=loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faig.score({"flat": [FLAT], "hill": [HILL, HILL], "again": [HILL]}, **OPTIONS)
    [warning] = barriers(caught)
    message = str(warning.message)
    assert warning.filename == __file__
    for part in ("of 'hill'", "at the target", "at the baseline", "between them"):
        assert part in message
    for way_out in ("an earlier checkpoint as the baseline", "coarser units", "another path"):
        assert way_out in message
    with pytest.warns(UserWarning, match="barrier 4"):  # as high as its own nodes see it
        faig.score([HILL], **OPTIONS)


def test_a_condition_that_did_not_change_and_a_path_without_a_hill_are_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FAIG(*pair(), objective=loss).score([FLAT], **OPTIONS)
        target = convnet()
        x = inputs_for(convnet)
        FAIG(target, moved(target)).score([(x, torch.zeros(3, 2))], **OPTIONS)
        # The same hill is under 1 where the ends differ by more.
        steep = copy.deepcopy(pair()[0])
        FAIG(steep, Tent(2.0).eval(), objective=lambda o, t: o.abs()).score([HILL], **OPTIONS)


@pytest.mark.parametrize("network", ["srresnet", "srcnn"])
def test_the_bundled_pairs_have_no_barrier(network):
    study = pytest.importorskip("blind_sr")
    assert study
    try:
        from blind_sr.data.photographs import load_photographs
        from blind_sr.models.pairs import load_pair
    except ImportError:
        from blind_sr.study import load_pair, load_photographs
    models, photographs = load_pair(network, crop=12), load_photographs(crop=12)
    data = {name: photographs.pairs(name)[:2] for name in ("blur", "noise", "clean")}
    faig = FAIG(models.target, models.baseline)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faig.score(data, reducer="layer", n_steps=4)
    for name in ("blur", "noise"):
        assert faig.path_profile(data[name], n_points=5).barrier < 1


def test_profiles_are_drawn_with_their_barriers():
    pytest.importorskip("matplotlib")
    from paramattr.plots import plot_profile

    hill = PathProfile(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 4.0, 3.0]), 1)
    [axis] = plot_profile({"hill": hill, "same": hill}).axes
    assert [line.get_label() for line in axis.lines][::2] == ["hill: barrier 1", "same: barrier 1"]
    assert axis.lines[0].get_ydata().tolist() == [1.0, 4.0, 3.0]
    assert list(axis.lines[1].get_ydata()) == [1.0, 3.0]
    [axis] = plot_profile(hill, measure="loss").axes
    assert axis.get_ylabel() == "loss"
    with pytest.raises(ParamattrError, match="no profile to draw"):
        plot_profile({})


class Bumped(nn.Module):
    """Gives `x[:, 0]` times a bump between the ends, and `x[:, 1]` times the weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))

    def forward(self, x):
        return 4 * self.weight * (1 - self.weight) * x[:, 0] + self.weight * x[:, 1]


def test_one_sample_with_a_barrier_is_believed_when_more_show_it():
    faig = FAIG(Bumped(1.0), Bumped(0.0), objective=lambda output, targets: output)
    bumped = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    plain = torch.tensor([[0.0, 5.0]], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faig.score([bumped, plain], reducer="scalar", n_steps=4)
    with pytest.warns(UserWarning, match="barrier .* on 3 samples"):
        faig.score([bumped] * 3, reducer="scalar", n_steps=4)
    with pytest.warns(UserWarning, match="barrier .* on 8 samples"):
        faig.score([bumped] * 12, reducer="scalar", n_steps=4)
