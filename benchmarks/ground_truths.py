"""Pairs of models of which it is known which units carry what: they were trained nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paramattr import Selection, UnitIndex, retrain_only, squared_error, token_cross_entropy
from paramattr.objectives import Objective

WORDS, LENGTH, WIDTH, HEADS, RANK = 16, 8, 32, 4, 4
PRETRAINED, RULES = (1, 1), {"first": (3, 2), "second": (5, 7)}
"""The next word is a * word + b: in pretraining for every task, and in each task's fine-tuning."""


@dataclass(frozen=True)
class GroundTruth:
    """A baseline, a target, and the units that each task was trained in.

    Attributes:
        target: after the trainings.
        baseline: before them.
        reducer: the units.
        truth: task to its units.
        among: units that are told apart; a ranking of the rest is not asked for.
        data: task to batches that nothing was trained on.
        objective: of the tasks.
    """

    target: nn.Module
    baseline: nn.Module
    reducer: str
    truth: dict[str, Selection]
    among: Bool[Tensor, "units"]
    data: dict[str, list[tuple[Tensor, Tensor]]]
    objective: Objective

    def loss(self, model: nn.Module, task: str) -> Float[Tensor, "samples"]:
        """Measure a task."""
        return torch.cat([self.objective(model(x), y) for x, y in self.data[task]])


def planted_kernels(seed: int, *, decoy: bool, drift: float = 0.03) -> GroundTruth:
    """Train eight kernels alone, let all others drift, and change kernels of dead channels most."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, third = (nn.Conv2d(*s, 3, padding=1) for s in ((1, 8), (8, 8), (8, 1)))
    baseline = nn.Sequential(first, nn.LeakyReLU(0.1), second, nn.ReLU(), third).eval()
    dead = (2, 5)
    with torch.no_grad():
        second.get_parameter("bias")[list(dead)] = -30
    index = UnitIndex.of(baseline, "kernel")
    around = torch.zeros(len(index), dtype=torch.bool)
    for number in range(len(index)):
        name, (out, into) = index[number]
        around[number] = (name == "2.weight" and out in dead) or (
            name == "4.weight" and into in dead
        )
    alive = (~around).nonzero()[:, 0]
    planted = _selected(index, alive[torch.randperm(len(alive), generator=draw)[:8]])
    teacher = copy.deepcopy(baseline)
    _shift(teacher, planted, 0.5, draw)
    x = torch.randn(64, 1, 6, 6, generator=draw)
    with torch.no_grad():
        y = teacher(x)
    target = _trained(
        retrain_only(baseline, planted),
        baseline,
        lambda model, _: (model(x[:32]) - y[:32]).square().mean(),
        steps=80,
        rate=0.05,
    )
    _shift(target, ~planted, drift, draw)
    if decoy:
        _shift(target, Selection(index, around), 0.8, draw)
    every = torch.ones(len(index), dtype=torch.bool)
    data = {"task": [(x[32:], y[32:])]}
    return GroundTruth(target, baseline, "kernel", {"task": planted}, every, data, squared_error)


def sparse_trainings(seed: int, share: float = 0.03) -> GroundTruth:
    """Train random entries on each of two tasks, apart, and add both changes to one model."""
    baseline, draw = _pretrained(seed), torch.Generator().manual_seed(10 + seed)
    index = UnitIndex.of(baseline, "scalar")
    order, count = torch.randperm(len(index), generator=draw), int(share * len(index))
    truth, target = {}, copy.deepcopy(baseline)
    for number, (task, rule) in enumerate(RULES.items()):
        truth[task] = _selected(index, order[number * count : (number + 1) * count])
        trained = _trained(
            retrain_only(baseline, truth[task]), baseline, _only(number, rule), steps=200, rate=0.03
        )
        with torch.no_grad():
            values = zip(
                target.parameters(), trained.parameters(), baseline.parameters(), strict=True
            )
            for total, own, before in values:
                total.add_(own - before)
    among = truth["first"].chosen | truth["second"].chosen
    return GroundTruth(target, baseline, "scalar", truth, among, _held_out(), token_cross_entropy)


def merged_adapters(seed: int) -> GroundTruth:
    """Train a LoRA adapter on each of two tasks, apart, and put their ranks side by side."""
    plain = _pretrained(seed)
    adapters = []
    for number, rule in enumerate(RULES.values()):
        model = _adapted(plain, RANK, 20 + 2 * seed + number)
        adapters.append(_trained(model, model, _only(number, rule), steps=200, rate=0.01))
    target = _adapted(plain, 2 * RANK, 0)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if "lora_" in name:
                own = [adapter.get_parameter(name).data for adapter in adapters]
                parameter.copy_(torch.cat(own, 0 if "lora_A" in name else 1))
    baseline = copy.deepcopy(target)
    with torch.no_grad():
        for name, parameter in baseline.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    index = UnitIndex.of(target, "rank_component")
    ranks = torch.tensor([index[number].position[0] for number in range(len(index))])
    first = Selection(index, ranks < RANK)
    truth, among = {"first": first, "second": ~first}, torch.ones(len(index), dtype=torch.bool)
    data = _held_out()
    return GroundTruth(target, baseline, "rank_component", truth, among, data, token_cross_entropy)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, under PEFT's names."""

    def __init__(self, inner: nn.Linear, rank: int, draw: torch.Generator) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        down = torch.randn(rank, inner.in_features, generator=draw) / inner.in_features**0.5
        self.lora_A = nn.ParameterDict({"default": down})
        self.lora_B = nn.ParameterDict({"default": torch.zeros(inner.out_features, rank)})

    def forward(self, x: Tensor) -> Tensor:
        """Add the adapter's output."""
        return self.inner(x) + x @ self.lora_A["default"].T @ self.lora_B["default"].T


class Block(nn.Module):
    """A causal transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "b t width"]) -> Float[Tensor, "b t width"]:
        """Attend to earlier places, then look at each alone."""
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, -1)
        )
        weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        mixed = weights.masked_fill(later, float("-inf")).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Language(nn.Module):
    """A small causal model of words; the first word of a text names the task."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + len(RULES), WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, words: Int[Tensor, "b t"]) -> Float[Tensor, "b t classes"]:
        """Give the next word's logits."""
        return self.head(self.norm(self.blocks(self.words(words) + self.places)))


def _pretrained(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Language()
    tasks = [_task(number, PRETRAINED) for number in range(len(RULES))]
    return _trained(
        model, model, lambda m, step: sum(task(m, step) for task in tasks), steps=300, rate=0.005
    )


def _texts(task: int, rule: tuple[int, int], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw texts of any words, and what the rule says after each."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (count, LENGTH - 1), generator=draw)
    following = (rule[0] * words + rule[1]) % WORDS
    names = torch.full((count, 1), WORDS + task)
    nothing = torch.full((count, 1), -100)
    return torch.cat([names, words], 1), torch.cat([nothing, following], 1)


def _task(number: int, rule: tuple[int, int]) -> Callable[[nn.Module, int], Tensor]:
    def loss(model: nn.Module, step: int) -> Tensor:
        words, following = _texts(number, rule, 48, step)
        return token_cross_entropy(model(words), following).mean()

    return loss


def _only(number: int, rule: tuple[int, int]) -> Callable[[nn.Module, int], Tensor]:
    """Teach one task a rule, and have the others stay as they were."""
    tasks = [_task(n, rule if n == number else PRETRAINED) for n in range(len(RULES))]
    return lambda model, step: torch.stack([task(model, step) for task in tasks]).sum()


def _held_out() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return {
        task: [_texts(number, rule, 32, 1_000_000)]
        for number, (task, rule) in enumerate(RULES.items())
    }


def _adapted(plain: nn.Module, rank: int, seed: int) -> nn.Module:
    model, draw = copy.deepcopy(plain).requires_grad_(False), torch.Generator().manual_seed(seed)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path.startswith("blocks"):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Adapted(module, rank, draw))
    return model.eval()


def _trained(
    student: nn.Module,
    like: nn.Module,
    loss: Callable[[nn.Module, int], Any],
    *,
    steps: int,
    rate: float,
) -> nn.Module:
    """Train what asks for gradients, and give it as a plain model."""
    optimiser = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        optimiser.zero_grad()
        loss(student, step).backward()
        optimiser.step()
    trained = copy.deepcopy(like)
    trained.load_state_dict(student.state_dict())
    return trained.eval().requires_grad_(False)


def _selected(index: UnitIndex, numbers: Int[Tensor, "k"]) -> Selection:
    chosen = torch.zeros(len(index), dtype=torch.bool)
    chosen[numbers] = True
    return Selection(index, chosen)


def _shift(model: nn.Module, selection: Selection, scale: float, draw: torch.Generator) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(scale * noise * selection.mask(name))


def ground_truths(seed: int) -> Iterator[tuple[str, GroundTruth]]:
    """Make every pair of one seed."""
    yield "planted kernels", planted_kernels(seed, decoy=False)
    yield "planted kernels, decoys", planted_kernels(seed, decoy=True)
    yield "sparse trainings", sparse_trainings(seed)
    yield "merged adapters", merged_adapters(seed)
