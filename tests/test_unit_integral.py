"""Reduced while gradients come, a sample's units equal those of its whole attributions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from paramattr import FAIG, UnitIndex
from paramattr.cost import Plan
from paramattr.integration.accumulation import Speed
from paramattr.integration.batches import Batch
from paramattr.integration.gradients import ObjectiveOfParameters
from paramattr.integration.integrals.fixed import Fixed, Sizes
from paramattr.integration.integrand import Integrand, Points, path_between
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import squared_error
from paramattr.paths import FittedPath, StraightLine
from paramattr.quadrature import Rule, gauss_legendre
from paramattr.runtime.compute import Compute


class Small(nn.Module):
    """A convolution, a linear layer whose weight is used twice, a scalar, and what is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.linear = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.randn(()))
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.linear(torch.tanh(self.conv(x)).flatten(1)[:, :12])
        return self.linear(torch.tanh(once)) * self.scale


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return Small().double().eval(), Small().double().eval()


@pytest.fixture
def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 2, 4, 4, generator=draw, dtype=torch.float64),
            torch.randn(n, 12, generator=draw, dtype=torch.float64),
        )
        for n in (5, 2)
    ]


UNITS = ["output_channel", "kernel", "layer", "scalar"]
MEMORY = {"least": 1, "points": 6 * 4000, "sums": 3 * 4000, "ample": None}


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("chunk", [7, 2**17])
def test_units_are_those_of_the_attributions(
    pair: tuple[nn.Module, nn.Module],
    samples: list[tuple[torch.Tensor, torch.Tensor]],
    nodes: int,
    memory: int | None,
    chunk: int,
) -> None:
    sizes = Sizes(0, 0, chunk) if chunk == 7 else Sizes()
    faig = FAIG(*pair, memory=memory)
    found = faig.score(samples, reducer=UNITS, method=Fixed(gauss_legendre(nodes), sizes))
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
def test_the_rows_that_an_embedding_read_give_what_all_rows_give(kind: str, nodes: int) -> None:
    torch.manual_seed(0)
    target, baseline = (Reader(kind).double().eval() for _ in range(2))
    units = [name for name in UNITS if name != "kernel"]
    width = 20 if kind == "tied" else 6
    samples = [
        (torch.randint(0, 20, (n, 5)), torch.randn(n, width, dtype=torch.float64)) for n in (4, 1)
    ]
    faig = FAIG(target, baseline)
    dense = faig.score(samples, reducer=units, n_steps=nodes)
    streamed = Fixed(gauss_legendre(nodes), Sizes(small=0))
    by_rows = faig.score(samples, reducer=units, method=streamed)
    assert any(sparse(target, baseline, samples[0])) is (
        kind in ("plain", "padded", "twice", "empty")
    )
    for reducer in units:
        torch.testing.assert_close(by_rows[reducer].values, dense[reducer].values)
        torch.testing.assert_close(by_rows[reducer].signed, dense[reducer].signed)
        assert by_rows[reducer].unassigned == pytest.approx(dense[reducer].unassigned)


def sparse(
    target: nn.Module, baseline: nn.Module, sample: tuple[torch.Tensor, torch.Tensor]
) -> list[bool]:
    """Say of each gradient, as it comes, whether it holds the rows that were read alone."""
    path = path_between(target, baseline, None, Compute())
    function = ObjectiveOfParameters(FunctionalModel(target), squared_error)
    found: list[bool] = []
    Integrand(function, path, tuple(path.start)).gradients(
        0.5, Batch.of(*sample), list(path.start), take=lambda name, g: found.append(g.is_sparse)
    )
    return found


class Counted:
    """A straight line that counts how often each parameter's speed is computed."""

    is_piecewise_linear = True

    def __init__(self, line: StraightLine) -> None:
        self.evaluate, self.derivative, self.line = line.evaluate, line.derivative, line
        self.asked: list[str] = []

    def derivative_of(
        self, name: str, alpha: float, rows: slice, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.asked.append(name)
        return self.line.derivative_of(name, alpha, rows, out)


@pytest.mark.parametrize("held", [0, 1, 2])
def test_speed_is_held_as_far_as_there_is_room(held: int) -> None:
    ends = tuple({"a": torch.full((4,), x), "b": torch.full((4,), 2 * x)} for x in (1.0, 3.0))
    line = Counted(StraightLine(*ends))
    speed = Speed(FittedPath(line, ends[0]), 0.5, room=held * 16 + 8)
    for _ in range(3):
        assert speed.of("a", slice(2, 4)).tolist() == [2.0, 2.0]
        assert speed.of("b", slice(0, 1)).tolist() == [4.0]
    assert len(line.asked) == held + 3 * (2 - held)


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


@pytest.mark.parametrize("small", [0, 2**24])
def test_the_weight_of_a_single_node_counts(
    pair: tuple[nn.Module, nn.Module],
    samples: list[tuple[torch.Tensor, torch.Tensor]],
    small: int,
) -> None:
    whole, half = (
        FAIG(*pair).score(
            samples, reducer="layer", method=Fixed(Rule("one", (0.5,), (w,), 0), Sizes(small=small))
        )
        for w in (1.0, 0.5)
    )
    assert float(whole.values.sum()) > 0
    torch.testing.assert_close(half.values, whole.values / 2)
