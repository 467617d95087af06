"""Predict how severe a degradation is, and find where the network stops restoring."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from blind_sr.classify.ranking import ranker
from blind_sr.data.degradations import CONDITIONS
from blind_sr.data.photographs import Photographs, with_conditions
from blind_sr.models.pairs import Pair, with_target
from blind_sr.rankings.conditions import score_conditions
from blind_sr.run import Advance, progress
from blind_sr.setting import Setting, check_percents
from blind_sr.severity.inputs import RANGES, Drawn, check_kinds, trained_on
from blind_sr.severity.measuring import Measured, measure
from blind_sr.severity.responses import respond, summary
from blind_sr.severity.rival import predicted_by, train_on_labels
from paramattr import Bootstrap, Curve, OverlapRegressor, Response, Selection, against_rest
from paramattr.errors import ParamattrError
from paramattr.files.reading import fingerprint
from paramattr.files.resume import Unfinished
from paramattr.prediction import Line

BINS = 5
PREDICTORS = ("overlap", "trained", "mean", "labels")
"""What predicts: the regressor of all overlap scores, that of the filters found at the trained
severity alone, the mean severity, a network of labels."""
RISING = " rising"
"""What the name of the filters ends in whose scores rise most with the severity."""


@dataclass(frozen=True)
class SeverityConfig:
    """A prediction of severities.

    Attributes:
        setting: pair, rule and machine; its photographs are not used.
        kinds: degradations whose severity varies, of `inputs.RANGES`.
        target: another target, fine-tuned from the same baseline; None for the pair's.
        find: folder to find the filters on; None for the photographs of scikit-image.
        fit: folder to fit the regressions on.
        test: folder to predict on.
        limit: photographs of `fit` and `test`, the first by name; 0 for all.
        draws: inputs of each degradation per photograph, each of its own severity.
        pct: share of the filters, in percent.
        levels: severities of the response curves; 0 for no curves.
        label_steps: steps of the network that is trained on labels.
        out: folder that keeps what was done, so that a repeated run resumes.
    """

    setting: Setting = field(default_factory=lambda: Setting(steps=4))
    kinds: tuple[str, ...] = ("blur", "noise")
    target: Path | None = None
    find: Path | None = None
    fit: Path | None = None
    test: Path | None = None
    limit: int = 0
    draws: int = 4
    pct: float = 1.0
    levels: int = 5
    label_steps: int = 1000
    out: Path = Path("severity-output")

    def settings(self, pair: Pair) -> dict[str, Any]:
        """What a regressor says of how it was made."""
        own = {"kinds": list(self.kinds), "pct": self.pct, "draws": self.draws}
        return {**own, "weights": pair.digest, **self.setting.content}


@dataclass(frozen=True)
class SeverityResult:
    """What a prediction of severities gave.

    Attributes:
        config: what was run.
        regressor: fitted.
        found: degradation to the filters of its function, found at the trained severity; and, with
            curves, degradation and `RISING` to those whose scores rise most with the severity.
        tested: degradation to what the inputs under test gave.
        predicted: degradation, then predictor, to a severity per input under test.
        responses: degradation to the response of every filter.
        counts: photographs of each folder.
    """

    config: SeverityConfig
    regressor: OverlapRegressor
    found: dict[str, Selection]
    tested: dict[str, Measured]
    predicted: dict[str, dict[str, Float[Tensor, "inputs"]]]
    responses: dict[str, Response]
    counts: dict[str, int]

    @property
    def content(self) -> dict[str, Any]:
        """All numbers, of the kinds JSON knows."""
        return {
            "errors": {kind: self._errors(kind) for kind in self.tested},
            "boundary": {kind: boundary(own) for kind, own in self.tested.items()},
            "responses": {k: summary(own, self.found) for k, own in self.responses.items()},
            "inputs": {
                kind: _columns(own, self.predicted[kind]) for kind, own in self.tested.items()
            },
            "counts": self.counts,
            **self.regressor.notes,
        }

    def _errors(self, kind: str) -> dict[str, Any]:
        severities = self.tested[kind].severities
        own = {name: (p - severities).abs() for name, p in self.predicted[kind].items()}
        rows = {name: _interval(values) for name, values in own.items()}
        less = {f"overlap - {n}": _interval(own["overlap"] - own[n]) for n in PREDICTORS[1:]}
        ends = {"from": RANGES[kind].low, "to": RANGES[kind].high, "trained_on": trained_on(kind)}
        return {**ends, **rows, **less}


def run(config: SeverityConfig) -> SeverityResult:
    """Find filters on a first folder, fit regressions on a second, predict on a third.

    Raises:
        ParamattrError: for settings that cannot be, before any work.
    """
    setting = config.setting
    _check(config)
    pair = setting.load_pair()
    if config.target is not None:
        pair = with_target(pair, config.target)
    used = {use: _photographs(config, use) for use in ("find", "fit", "test")}
    config.out.mkdir(parents=True, exist_ok=True)
    inputs = config.draws * len(config.kinds) * sum(len(used[use].names) for use in ("fit", "test"))
    with progress("finding filters", 1) as advance:
        found = _find(config, pair, used["find"])
        advance(1)
    with progress("response curves", len(config.kinds)) as advance:
        responses = {}
        for kind in config.kinds if config.levels else ():
            responses[kind] = respond(setting, pair, used["find"], kind, config.levels)
            found[f"{kind}{RISING}"] = responses[kind].slope.top(fraction=config.pct / 100)
            advance(1)
    rank = ranker(pair, "self", n_steps=setting.steps, method=setting.quadrature)
    regressor = OverlapRegressor(found, rank, notes=config.settings(pair))
    with progress("ranking for each input", inputs) as advance:
        fitted, tested = (
            _measured(config, regressor, pair, used[use], seed, advance)
            for seed, use in enumerate(("fit", "test"))
        )
    _fit(regressor, fitted)
    trained = _fit(OverlapRegressor({kind: found[kind] for kind in config.kinds}), fitted)
    predicted = {
        kind: {
            "overlap": regressor.predict_scores(own.overlaps)[kind],
            "trained": trained.predict_scores(own.overlaps)[kind],
            "mean": torch.full_like(own.severities, float(fitted[kind].severities.mean())),
            "labels": _by_labels(config, kind, used),
        }
        for kind, own in tested.items()
    }
    counts = {use: len(own.names) for use, own in used.items()}
    return SeverityResult(config, regressor, found, tested, predicted, responses, counts)


def boundary(own: Measured) -> list[dict[str, Any]]:
    """Give, for parts of the severities' range, the mean overlap scores and what is restored.

    Rows of `from`, `to`, `inputs`, `overlap` (condition to mean), `baseline`, `target` and `gain`
    (mean PSNR in dB; the gain with its 95% interval over inputs).
    """
    ends, rows = RANGES[own.kind].levels(BINS + 1), []
    for low, high in pairwise(ends):
        last = high == ends[-1]
        inside = (own.severities >= low) & ((own.severities < high) | last)
        if inside.any():
            rows.append(
                {
                    "from": low,
                    "to": high,
                    "inputs": int(inside.sum()),
                    "overlap": {n: float(v[inside].mean()) for n, v in own.overlaps.items()},
                    "baseline": float(own.baseline[inside].mean()),
                    "target": float(own.target[inside].mean()),
                    "gain": _interval(own.gain[inside]),
                }
            )
    return rows


def _check(config: SeverityConfig) -> None:
    check_kinds(config.kinds)
    check_percents(config.pct)
    config.setting.check()
    if config.levels == 1 or min(config.levels, config.label_steps - 1, config.draws - 1) < 0:
        raise ParamattrError(
            f"levels is {config.levels}, draws {config.draws} and label steps "
            f"{config.label_steps}: expected 0 for no curves or at least 2 levels, at least 1 draw "
            "and at least 1 step"
        )


def _photographs(config: SeverityConfig, use: str) -> Photographs:
    setting = replace(config.setting, images=getattr(config, use))
    photographs = setting.load_photographs().first(0 if use == "find" else config.limit)
    own = {kind: CONDITIONS[kind] for kind in config.kinds}
    return with_conditions(photographs, own, seed=setting.seed)


def _find(config: SeverityConfig, pair: Pair, photographs: Photographs) -> dict[str, Selection]:
    scores = score_conditions(config.setting, pair, photographs, config.kinds)["kernel"]
    return {kind: own.top(fraction=config.pct / 100) for kind, own in against_rest(scores).items()}


def _measured(
    config: SeverityConfig,
    regressor: OverlapRegressor,
    pair: Pair,
    photographs: Photographs,
    number: int,
    advance: Advance,
) -> dict[str, Measured]:
    filters = fingerprint([{kind: units.chosen for kind, units in regressor.found.items()}])
    stamp = {**config.settings(pair), "filters": filters}
    kept = Unfinished(config.out / "running.safetensors", stamp)
    seed = 2 * config.setting.seed + number
    return {
        kind: measure(
            regressor,
            pair,
            Drawn.of(photographs, kind, seed, config.draws),
            kept,
            advance=advance,
        )
        for kind in config.kinds
    }


def _fit(regressor: OverlapRegressor, fitted: dict[str, Measured]) -> OverlapRegressor:
    lines: dict[str, Line] = {}
    for kind, own in fitted.items():  # each severity on the inputs that have it
        lines |= regressor.fit_scores(own.overlaps, {kind: own.severities.tolist()}).lines
    regressor.lines = lines
    return regressor


def _by_labels(
    config: SeverityConfig, kind: str, used: dict[str, Photographs]
) -> Float[Tensor, "inputs"]:
    network = train_on_labels(used["fit"].high, kind, config.label_steps, config.setting.seed)
    drawn = Drawn.of(used["test"], kind, 2 * config.setting.seed + 1, config.draws)
    return predicted_by(network, kind, drawn.photographs.low[kind])


def _interval(values: Float[Tensor, "inputs"]) -> dict[str, float]:
    one = Curve((0.0,), values[None].double())
    return one.at(0.0, Bootstrap())._asdict()


def _columns(own: Measured, predicted: dict[str, Tensor]) -> dict[str, Any]:
    numbers = {
        "severity": own.severities,
        **{f"overlap_{name}": values for name, values in own.overlaps.items()},
        **{f"predicted_{name}": values for name, values in predicted.items()},
        "psnr_baseline": own.baseline,
        "psnr_target": own.target,
    }
    return {name: [round(v, 5) for v in values.tolist()] for name, values in numbers.items()}
