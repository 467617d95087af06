"""Two networks, what they are judged on, and what is measured of them."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.benchmark import Row
from benchmarks.judging import Judge, how_far
from benchmarks.ranked_units import rank_units
from benchmarks.retrained_units import retrained
from benchmarks.waifu2x import CONDITIONS, Photographs, load_network, load_photographs
from paramattr import (
    FAIG,
    BezierPath,
    Scores,
    StraightLine,
    align,
    connect,
    contrast,
    random_scores,
    random_within_layers,
    substitute,
    substituted,
)
from paramattr.paths import Path
from paramattr.surgery.edits import holding

if TYPE_CHECKING:
    from benchmarks.bench_real_pairs import Config

PLACES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FAMILIES = ("PHOTO", "CUNET")


class Pair:
    """Two networks, what they are judged on, and what is measured of them."""

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.config = name, config
        self.family, self.before, self.after = name.split(":")
        place = FAMILIES.index(self.family)
        self.side, self.small = int(config.judged[place]), int(config.trained[place])

    @cached_property
    def target(self) -> nn.Module:
        return load_network(self.family, self.after)

    @cached_property
    def baseline(self) -> nn.Module:
        return load_network(self.family, self.before)

    @cached_property
    def line(self) -> StraightLine:
        return StraightLine(self.target, self.baseline)

    @cached_property
    def curve(self) -> BezierPath:
        file = self.config.folder / f"{self.name.replace(':', '-')}.safetensors"
        if not file.exists():
            batches = list(self.finding.drawn(self.small, self.config.steps, seed=0))
            connect(
                self.target, self.baseline, batches, steps=self.config.steps, dtype=torch.bfloat16
            ).save(file)
        return BezierPath.load(file)

    @cached_property
    def finding(self) -> Photographs:
        return load_photographs(self.config.find, self.family, self.config.quality)

    @cached_property
    def judge(self) -> Judge:
        photographs = load_photographs(self.config.judge, self.family, self.config.quality)
        batches = {c: photographs.middles(c, self.side) for c in CONDITIONS}
        return Judge(self.target, self.baseline, batches)

    @cached_property
    def rankings(self) -> dict[str, dict[str, Scores]]:
        """Units, then method, to scores: JPEG against clean where the method looks at data."""
        folder = self.config.folder / f"rankings-{self.name.replace(':', '-')}"
        if not folder.exists():
            made = self._ranked()
            part = folder.with_suffix(".part")
            for units, methods in made.items():
                for method, scores in methods.items():
                    (part / units).mkdir(parents=True, exist_ok=True)
                    scores.save(part / units / f"{method}.safetensors")
            part.rename(folder)
        return {
            units: {file.stem: Scores.load(file) for file in sorted((folder / units).iterdir())}
            for units in self.config.units
        }

    def _ranked(self) -> dict[str, dict[str, Scores]]:
        data = {c: own[: self.config.finding] for c, own in self._middles().items()}
        models = (self.target, self.baseline)
        return rank_units(*models, self.curve, data, self.config.units, self.config.nodes)

    def line_rows(self) -> list[Row]:
        """Measure the straight line, and for PHOTO the one from the aligned baseline."""
        apart = how_far(self.target, self.baseline)
        rows = [{"path": "line", **apart, **self._profile(self.line)}]
        if self.family == "PHOTO" and self.before == "UP2X":  # CUNET has other gates
            aligned = align(self.baseline, self.target)
            rows.append(
                {"path": "line, aligned", **self._profile(StraightLine(self.target, aligned))}
            )
        return rows

    def curve_rows(self) -> list[Row]:
        """Measure the trained curve."""
        return [{"path": "curve", **self._profile(self.curve)}]

    def ranking_rows(self) -> list[Row]:
        """Say which methods warned, and how much the rankings share with FAIG's on the line."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rankings = self.rankings
        said = [str(warning.message) for warning in caught]
        rows: list[Row] = [{"warnings": [text for text in said if text.startswith("barrier")]}]
        for units, methods in rankings.items():
            line = methods["faig"]
            for method, scores in methods.items():
                shared = {
                    f"overlap_{share:g}": line.top(fraction=share).overlap(
                        scores.top(fraction=share, warn=False)
                    )
                    for share in self.config.shares
                }
                layers = {
                    f"layers_{share:g}": list(
                        scores.top(fraction=share, warn=False).by_layer().values()
                    )
                    for share in self.config.retrained
                }
                rows.append({"units": units, "method": method, **shared, **layers})
        return rows

    def edit_rows(self) -> list[Row]:
        """Exchange the top units of every method for the baseline's or for a nearer point's."""
        judge = self.judge  # before any edit: it measures the target as it is
        ways: dict[str, Any] = {"baseline": self.baseline}
        ways |= {f"curve at {a:g}": self.curve.evaluate(a) for a in self.config.near}
        ways["line at 0.25"] = self.line.evaluate(0.25)
        rows = []
        for units, methods in self.rankings.items():
            every = {m: [s] for m, s in methods.items()} | {"random": self._random(units)}
            for way, values in ways.items():
                chosen = every if way == "baseline" else _few(every)
                for method, several in chosen.items():
                    for share in self.config.shares:
                        measured = []
                        for scores in several:
                            top = scores.top(fraction=share, warn=False)
                            with substituted(self.target, values, top) as edited:
                                measured.append(judge.decibels(edited))
                        named = {"units": units, "toward": way, "method": method, "share": share}
                        rows.append({**named, **judge.row(torch.stack(measured).mean(0))})
        return rows

    def channel_rows(self) -> list[Row]:
        """Exchange very few output channels, for several places of the curve."""
        judge, methods = self.judge, self.rankings["output_channel"]
        every = {method: [methods[method]] for method in ("faig", "gradient, middle", "change")}
        every["random"] = self._random("output_channel")
        every["random, same layers"] = self._shuffled(methods["faig"])
        rows = []
        for place in (0.375, 0.5, 1.0):
            values = self.curve.evaluate(place)
            for method, several in every.items():
                for count in (3, 6):
                    edited = [
                        substitute(self.target, values, scores.top(count=count, warn=False))
                        for scores in several
                    ]
                    measured = torch.stack([judge.decibels(network) for network in edited])
                    named = {"place": place, "method": method, "channels": count}
                    rows.append({**named, **judge.row(measured.mean(0))})
        return rows

    def layer_rows(self) -> list[Row]:
        """Exchange each layer alone, and the first ones together."""
        judge, scores = self.judge, random_scores(self.target, reducer="layer")
        count = len(scores)
        rows = []
        ways = {"baseline": self.baseline, "curve at 0.25": self.curve.evaluate(0.25)}
        for way, values in ways.items():
            groups = {f"layer {k + 1}": range(k, k + 1) for k in range(count)}
            if way == "baseline":
                groups |= {f"first {k}": range(k) for k in range(2, count)}
            for label, numbers in groups.items():
                chosen = torch.tensor([float(k in numbers) for k in range(count)])
                top = Scores(scores.index, chosen.double()).top(count=len(numbers))
                with substituted(self.target, values, top) as edited:
                    rows.append(
                        {"toward": way, "layers": label, **judge.row(judge.decibels(edited))}
                    )
        return rows

    def retrained_rows(self) -> list[Row]:
        """Train the top units alone: kernels by every method to unlearn, the rest by a few."""
        rows = []
        small, large = self.config.retrained
        trainings = [
            ("unlearn", "kernel", small),
            ("unlearn", "kernel", large),
            ("unlearn", "output_channel", large),
            ("mend", "kernel", large),
            ("learn", "kernel", large),
        ]
        for how, units, share in trainings if self.before == "UP2X" else trainings[:1]:
            every = {method: [scores] for method, scores in self.rankings[units].items()}
            every["random"] = self._random(units)
            if (how, share) != ("unlearn", small):
                every = _few(every)
            if how != "unlearn":
                del every["faig, curve"]
            every["random, same layers"] = self._shuffled(self.rankings[units]["faig"])
            rows += self._trained(how, units, share, every)
        return rows

    def unlearned_rows(self) -> list[Row]:
        """Train the top kernels to unlearn, by FAIG on the straight line and at random."""
        data = {c: own[: self.config.finding] for c, own in self._middles().items()}
        faig = FAIG(self.target, self.baseline)
        scores = faig.score(data, reducer="kernel", n_steps=self.config.nodes)
        ranking = contrast(*(scores[condition] for condition in CONDITIONS))
        share = self.config.retrained[0]
        every = {
            "faig": [ranking],
            "random": self._random("kernel"),
            "random, same layers": self._shuffled(ranking),
        }
        return self._trained("unlearn", "kernel", share, every)

    def _trained(
        self, how: str, units: str, share: float, every: dict[str, list[Scores]]
    ) -> list[Row]:
        rows = []
        for method, several in every.items():
            measured = [self._retrained(how, scores, share) for scores in several]
            named = {"units": units, "how": how, "method": method, "share": share}
            rows.append({**named, **self.judge.row(torch.stack(measured).mean(0))})
        return rows

    def _middles(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        return {c: self.finding.middles(c, self.side) for c in CONDITIONS}

    def _retrained(self, how: str, scores: Scores, share: float) -> Tensor:
        batches = self.finding.drawn(self.small, self.config.training, seed=1)
        top = scores.top(fraction=share, warn=False)
        models = (self.target, self.baseline)
        return self.judge.decibels(retrained(how, *models, top, batches, self.config.rate))

    def _random(self, units: str) -> list[Scores]:
        return [random_scores(self.target, reducer=units, seed=k) for k in range(self.config.draws)]

    def _shuffled(self, scores: Scores) -> list[Scores]:
        return [random_within_layers(scores, seed=k) for k in range(self.config.draws)]

    def _profile(self, path: Path) -> Row:
        judge, measured = self.judge, []
        for place in PLACES:
            with holding(self.target, path.evaluate(place)):
                measured.append(judge.errors(self.target))
        return judge.profile(PLACES, torch.stack(measured))


def _few(methods: dict[str, list[Scores]]) -> dict[str, list[Scores]]:
    return {method: methods[method] for method in ("faig", "faig, curve", "random")}
