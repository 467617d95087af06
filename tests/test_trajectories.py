"""Trajectories against `PiecewiseLinear`, closed forms, and their own reverse."""

import copy

import pytest
import torch
from torch import nn

from paramattr import (
    FAIG,
    ParamattrError,
    PiecewiseLinear,
    UnitIndex,
    cross_entropy,
    save_state_dict,
    squared_error,
    summed_output,
    trajectory,
)
from paramattr.plots import plot_trajectory
from tests.models import mlp
from tests.tiny import convnet, seeded

BARRIERS = "Between neighbouring checkpoints the objective rises above both"
pytestmark = pytest.mark.filterwarnings(f"ignore:{BARRIERS}")


def network() -> nn.Module:
    return seeded(lambda: mlp(3, 5, 2)).double().eval()


def data(count: int = 6, seed: int = 1):
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(count, 3, generator=draw, dtype=torch.float64),
            torch.randint(2, (count,), generator=draw),
        )
    ]


@pytest.fixture(scope="module")
def run() -> list[dict]:
    """The state dicts of a short training."""
    model = network()
    states = [copy.deepcopy(model.state_dict())]
    optimiser = torch.optim.SGD(model.parameters(), lr=2.0)
    inputs, targets = data()[0]
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def found(run, **options):
    given = {"reducer": "output_channel", "objective": cross_entropy, "n_steps": 8, **options}
    return trajectory(network(), run, data(), **given)


def filled(state: dict) -> nn.Module:
    model = network()
    model.load_state_dict(state)
    return model


def test_the_pieces_are_those_of_the_piecewise_linear_path(run):
    models = [filled(state) for state in run]
    path = PiecewiseLinear(models[::-1])
    whole = FAIG(models[-1], models[0], objective=cross_entropy, path=path)
    scores = whole.score(data(), reducer="output_channel", n_steps=8)
    own = found(run)
    torch.testing.assert_close(own.total, scores.signed, rtol=1e-9, atol=1e-12)
    line = FAIG(models[-1], models[0], objective=cross_entropy)
    scores = line.score(data(), reducer="output_channel", n_steps=32)
    torch.testing.assert_close(own.straight.signed, scores.signed)
    assert own.signed.shape == (4, len(UnitIndex.of(models[0], "output_channel")))
    expected = (own.total - scores.signed).abs().sum() / scores.signed.abs().sum()
    assert own.difference == pytest.approx(float(expected))
    assert f"{own.difference:.3g} from the straight line" in repr(own)


@torch.no_grad()
def test_each_piece_sums_to_what_the_objective_fell_by(run):
    inputs, targets = data()[0]
    losses = [cross_entropy(filled(state)(inputs), targets).mean() for state in run]
    own = found(run, reducer="layer")
    for piece, earlier, later in zip(own.pieces, losses, losses[1:], strict=False):
        assert float(piece.signed.sum()) == pytest.approx(float(earlier - later), abs=1e-8)
    assert float(own.total.sum()) == pytest.approx(float(own.straight.signed.sum()), abs=1e-8)


def test_reversed_ends_give_the_negative(run):
    forward, backward = found(run), found(run[::-1])
    torch.testing.assert_close(backward.signed, -forward.signed.flip(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(backward.straight.signed, -forward.straight.signed)
    for one, two in zip(backward.pieces, forward.pieces[::-1], strict=True):
        torch.testing.assert_close(one.values, two.values, rtol=1e-9, atol=1e-12)


def test_a_run_on_the_straight_line_does_not_differ_from_it(run):
    between = [
        {name: torch.lerp(value, run[-1][name], share) for name, value in run[0].items()}
        for share in (0.0, 0.2, 0.7, 1.0)
    ]
    assert found(between).difference < 1e-8
    assert found(run).difference > 1e-3


def test_barriers_between_neighbours_are_named_once():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).eval()
    states = [  # the product is near one at each checkpoint, and zero between them
        dict.fromkeys(("0.weight", "1.weight"), torch.full((1, 1), value))
        for value in (1.3, -1.2, 1.1)
    ]
    one = [(torch.ones(1, 1), torch.ones(1, 1))]
    with pytest.warns(UserWarning, match=f"{BARRIERS}.*, 2 times") as caught:
        trajectory(model, states, one, reducer="scalar", n_steps=8)
    assert len(caught) == 1


def test_when_a_unit_learned():
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    rows = ([0, 0, 0], [2, 0, 0], [2, 1, 0], [2, 4, 0])
    states = [{"weight": torch.tensor([row], dtype=torch.float64)} for row in rows]
    one = [torch.ones(1, 3, dtype=torch.float64)]
    own = trajectory(
        model, states, one, reducer="scalar", objective=summed_output, steps=[0, 10, 20, 50]
    )
    expected = torch.tensor([[-2.0, 0, 0], [0, -1, 0], [0, -3, 0]], dtype=torch.float64)
    torch.testing.assert_close(own.signed, expected)
    assert own.when()[:2].tolist() == [10, 50]
    assert own.when(0.25)[:2].tolist() == [10, 20]
    assert own.when(1.0)[1] == 50
    assert own.when()[2].isnan()


def test_conditions_files_and_modules_are_taken(run, tmp_path):
    save_state_dict(tmp_path / "one.safetensors", run[1])
    mixed = [filled(run[0]), tmp_path / "one.safetensors", *run[2:]]
    loaders = {"all": iter(data()), "few": data(2, 5)}
    own = trajectory(
        network(), mixed, loaders, reducer="output_channel", objective=cross_entropy, n_steps=8
    )
    assert list(own) == ["all", "few"]
    torch.testing.assert_close(own["all"].signed, found(run).signed)
    assert not torch.allclose(own["few"].signed, own["all"].signed)


def test_running_statistics_take_part():
    model = convnet()
    states = [copy.deepcopy(model.state_dict()) for _ in range(3)]
    for n, state in enumerate(states):
        state["norm.running_mean"] += 0.5 * n
    inputs = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    own = trajectory(
        model, states, [(inputs, torch.zeros(2, 2))], reducer="layer", objective=squared_error
    )
    moved = {unit.name for unit, score in own.pieces[1] if score}
    assert moved == {"norm"}


def test_the_heat_map_names_the_units_and_the_difference(run):
    figure = plot_trajectory(found(run, steps=[0, 10, 20, 30, 100]), count=4)
    axis = figure.axes[0]
    assert axis.images[0].get_array().shape == (4, 4)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "20", "30", "100"]
    assert "from the straight line" in axis.get_title()
    both = {"one": found(run), "two": found(run[::-1])}
    figure = plot_trajectory(both)
    assert [axis.get_title().split(":")[0] for axis in figure.axes[:2]] == ["one", "two"]
    with pytest.raises(ParamattrError, match="there is no trajectory"):
        plot_trajectory({})
    with pytest.raises(ParamattrError, match="differ in steps or units"):
        plot_trajectory({"one": found(run), "two": found(run[:3])})


def test_mistakes_are_named(run):
    with pytest.raises(ParamattrError, match="at least two checkpoints: found 1"):
        found(run[:1])
    with pytest.raises(ParamattrError, match="checkpoints 1 and 2 are equal"):
        found([run[0], run[1], run[1]])
    with pytest.raises(ParamattrError, match="expected 5 increasing numbers"):
        found(run, steps=[0, 1, 2])
    with pytest.raises(ParamattrError, match="expected 5 increasing numbers"):
        found(run, steps=[0, 1, 1, 2, 3])
    with pytest.raises(
        ParamattrError, match=r"checkpoint 1 does not fit the model: .*size mismatch"
    ):
        found([run[0], {**run[1], "0.weight": torch.zeros(2, 2)}])
    with pytest.raises(ParamattrError, match="share is 0"):
        found(run).when(0)
