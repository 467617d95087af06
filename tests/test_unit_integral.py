"""Reduced while gradients come, a sample's units equal those of its whole attributions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from paramattr import FAIG, UnitIndex
from paramattr.integration import unit_integral
from paramattr.integration.plan import Plan
from paramattr.integration.points import Points
from paramattr.paths import FittedPath, StraightLine
from tests.models import pair_of, random_batches

Pair = tuple[nn.Module, nn.Module]
Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Small(nn.Module):
    """A convolution, a linear layer whose weight is used twice, a scalar, and what is not used."""

    def __init__(self, wide: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.linear = nn.Linear(12, 12)
        self.wide = nn.Linear(12, wide) if wide else nn.Identity()
        self.scale = nn.Parameter(torch.randn(()))
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.linear(torch.tanh(self.conv(x)).flatten(1)[:, :12])
        return self.wide(self.linear(torch.tanh(once))) * self.scale


@pytest.fixture
def pair() -> Pair:
    torch.manual_seed(0)
    return Small().double().eval(), Small().double().eval()


@pytest.fixture
def samples() -> Batches:
    return random_batches((5, 2), (2, 4, 4), (12,))


LARGE = 180_000
"""Outputs of a last layer that takes more than 16 MiB."""
UNITS = ["output_channel", "kernel", "layer", "scalar"]
MEMORY = {"least": 1, "points": 6 * 4000, "sums": 3 * 4000, "ample": None}


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
def test_units_are_those_of_the_attributions(
    pair: Pair,
    samples: Batches,
    nodes: int,
    memory: int | None,
) -> None:
    check_units(pair, samples, nodes, memory)


@pytest.mark.parametrize(("nodes", "memory"), [(1, None), (2, 1), (3, None)])
def test_units_of_a_large_model_are_those_of_the_attributions(
    nodes: int, memory: int | None
) -> None:
    """Its gradients are taken one by one, wait for no other, and are summed in parts."""
    samples = random_batches((2, 1), (2, 4, 4), (LARGE,))
    check_units(pair_of(lambda: Small(LARGE)), samples, nodes, memory)


def check_units(pair: Pair, samples: Batches, nodes: int, memory: int | None) -> None:
    faig = FAIG(*pair, memory=memory)
    found = faig.score(samples, reducer=UNITS, n_steps=nodes)
    assert faig.plan is not None
    each = [faig.attribute(*s, n_steps=nodes, per_sample=True) for s in samples]
    for reducer in UNITS:
        index = UnitIndex.of(pair[0], reducer)
        rows, signed, rest = [], [], 0.0
        for attributions, (inputs, _) in zip(each, samples, strict=True):
            for number in range(len(inputs)):
                own = {name: value[number] for name, value in attributions.items()}
                magnitudes, beside = index.reduce_with_rest({n: v.abs() for n, v in own.items()})
                rows.append(magnitudes)
                signed.append(index.reduce(own))
                rest += float(beside)
        torch.testing.assert_close(found[reducer].values, torch.stack(rows).mean(0))
        torch.testing.assert_close(found[reducer].signed, torch.stack(signed).mean(0))
        whole = rest + float(torch.stack(rows).sum())
        assert found[reducer].unassigned == pytest.approx(rest / whole)


class Reader(nn.Module):
    """Embeddings: with a padding row, also the output layer's weight, computed, inside vmap."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(20, 6, padding_idx=3 if kind == "padded" else None)
        self.linear = nn.Linear(6, 6)
        if kind == "computed":
            nn.utils.parametrizations.weight_norm(self.words, dim=0)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        read = torch.vmap(self.words)(words) if self.kind == "mapped" else self.words(words)
        first = torch.tanh(self.linear(read))
        again = self.words(words.flip(-1)) if self.kind == "twice" else 0.0
        again = self.words(words[:, :0]).sum() if self.kind == "empty" else again
        output = (first + again).mean(1)
        return output @ self.words.weight.T if self.kind == "tied" else output


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    "kind", ["plain", "padded", "tied", "twice", "computed", "mapped", "empty"]
)
def test_the_rows_that_an_embedding_read_give_what_all_rows_give(
    monkeypatch: pytest.MonkeyPatch, kind: str, nodes: int
) -> None:
    torch.manual_seed(0)
    target, baseline = (Reader(kind).double().eval() for _ in range(2))
    units = [name for name in UNITS if name != "kernel"]
    width = 20 if kind == "tied" else 6
    samples = [
        (torch.randint(0, 20, (n, 5)), torch.randn(n, width, dtype=torch.float64)) for n in (4, 1)
    ]
    faig = FAIG(target, baseline)
    dense = faig.score(samples, reducer=units, n_steps=nodes)
    monkeypatch.setattr(unit_integral, "SMALL", 0)
    taken: list[bool] = []
    put = unit_integral._Queue.put

    def watched(queue: unit_integral._Queue, name: str, gradient: torch.Tensor) -> None:
        taken.append(gradient.is_sparse)
        put(queue, name, gradient)

    monkeypatch.setattr(unit_integral._Queue, "put", watched)
    by_rows = faig.score(samples, reducer=units, n_steps=nodes)
    assert any(taken) is (kind in ("plain", "padded", "twice", "empty"))
    for reducer in units:
        torch.testing.assert_close(by_rows[reducer].values, dense[reducer].values)
        torch.testing.assert_close(by_rows[reducer].signed, dense[reducer].signed)
        assert by_rows[reducer].unassigned == pytest.approx(dense[reducer].unassigned)


@pytest.mark.parametrize("room", [1.0, 1.5, 2.0])
def test_speed_is_held_as_far_as_there_is_room(
    pair: Pair,
    samples: Batches,
    monkeypatch: pytest.MonkeyPatch,
    room: float,
) -> None:
    made: list[unit_integral.UnitIntegral] = []
    planned = unit_integral.UnitIntegral.planned

    def watched(integral: unit_integral.UnitIntegral, size: int) -> Plan:
        made.append(integral)
        return planned(integral, size)

    monkeypatch.setattr(unit_integral.UnitIntegral, "planned", watched)
    used = [p for n, p in pair[0].named_parameters() if not n.startswith("unused")]
    size = sum(parameter.nbytes for parameter in pair[0].parameters())
    FAIG(*pair, memory=int(room * size)).score(samples, reducer="layer", n_steps=1)
    held = sum(speed.nbytes for speed in made[-1]._speed.values())
    assert held <= (room - 1) * size
    assert bool(held) is (room > 1)
    if room == 2:
        assert held >= sum(parameter.nbytes for parameter in used)


def test_the_order_that_is_planned_keeps_to_its_budget_and_interpolates_least() -> None:
    for nodes, samples, room in product((1, 2, 8, 16), (1, 4, 64), range(1, 30)):
        plan = Plan.of(nodes, samples, 10, 10 * room)
        assert plan.held_bytes <= 10 * max(room, 1 + (nodes > 1))
        assert plan.samples <= samples
        held = max(1, min(nodes, room - (nodes > 1)))
        by_points = nodes - held + 1 if held < nodes else 0
        by_samples = nodes / max(1, min(samples, room - 1))
        assert plan.interpolations == min(by_points, by_samples)


def test_a_point_that_the_model_wrote_on_is_interpolated_again() -> None:
    ends = ({"w": torch.zeros(3)}, {"w": torch.ones(3)})
    points = Points(FittedPath(StraightLine(*ends), ends[0]))
    points.keep(2)
    points.at(0.5, keep=True)["w"].add_(7)
    assert points.at(0.25)["w"].tolist() == [0.25] * 3
    assert points.at(0.5, keep=True)["w"].tolist() == [0.5] * 3
    assert ends[0]["w"].tolist() == [0.0] * 3
