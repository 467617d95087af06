"""Comparison of rankings: what each loses or gains at equal shares, and files of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import UnitError
from paramattr.faithfulness.curves import Bootstrap, Curve
from paramattr.faithfulness.masking import (
    FRACTIONS,
    Ends,
    Measure,
    Truth,
    curves,
    measure_ends,
    with_fractions,
)
from paramattr.files.reading import load_kind, save_state_dict, taken_apart
from paramattr.methods.random import random_scores_of
from paramattr.parameters import Baseline
from paramattr.runtime.ranks import Distributed
from paramattr.units.agreement import agreement
from paramattr.units.index import UnitIndex, check_same_units
from paramattr.units.scores import Scores
from paramattr.units.showing import frame

Ranking = Scores | Sequence[Scores]
"""One ranking, or several of one kind (random draws) whose curves are averaged."""

CONTROL = "random"
"""The method that areas are measured from; it is drawn where it is not given."""


@dataclass(frozen=True)
class Comparison:
    """The curves of every method, and what they come to.

    Attributes:
        rankings: method, then function, to the rankings used.
        curves: method, function whose units were exchanged, and function that was measured.
        fractions: at which the curves were measured.
        bootstrap: how intervals are drawn.
        truth: what the objective against the truth says of every edit; None if it was not given.
    """

    rankings: dict[str, dict[str, list[Scores]]]
    curves: dict[tuple[str, str, str], Curve]
    fractions: tuple[float, ...]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    truth: Truth | None = None

    def __repr__(self) -> str:
        """Say how much was compared."""
        functions = len({function for _, function, _ in self.curves})
        return (
            f"Comparison({', '.join(self.rankings)}; {functions} functions, "
            f"{len(self.fractions)} fractions)"
        )

    def to_dataframe(self, fractions: Sequence[float] | None = None) -> Any:
        """Give a pandas `DataFrame` of the measured values, with the columns of `rows`.

        Args:
            fractions: some of those that were measured; all by default.

        Raises:
            ParamattrError: if pandas is not installed.
        """
        rows = self.rows(fractions)
        return frame({name: [row[name] for row in rows] for name in rows[0]})

    def save(self, path: str | Path) -> None:
        """Write the comparison, with its rankings and the truth, to a safetensors file.

        Raises:
            CheckpointError: if it cannot be written.
        """
        _write(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a comparison that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no comparison.
        """
        return _read(path)

    def on(self, samples: slice) -> Comparison:
        """Give the comparison on some of the samples, with intervals over these alone.

        The truth is too, if it is of as many samples as the measures; else it stays whole.
        """
        own = {curve.values.shape[1] for curve in self.curves.values()}
        truth = self.truth
        if truth is not None and own == {len(ends.target) for ends in truth.ends.values()}:
            truth = truth.on(samples)
        curves = {key: curve.on(samples) for key, curve in self.curves.items()}
        return replace(self, curves=curves, truth=truth)

    def rows(self, fractions: Sequence[float] | None = None) -> list[dict[str, Any]]:
        """Give the measured values: a row per method, function, measured function and fraction.

        Args:
            fractions: some of those that were measured; all by default.

        Returns:
            Rows of `method`, `function`, `measured`, `fraction`, `value`, `low`, `high`; with the
            truth also `lost_share`, `lost_low`, `lost_high` of the measured function, `damage`,
            `selective` and `reason` of the edit.
        """
        wanted = self.fractions if fractions is None else with_fractions(fractions)
        rows = []
        for names, curve in self._named("measured"):
            for fraction in wanted:
                found = curve.at(fraction, self.bootstrap)
                row = {**names, "fraction": fraction, **found._asdict()}
                if self.truth is not None:
                    row |= self.truth.columns(**names, fraction=fraction, bootstrap=self.bootstrap)
                rows.append(row)
        return rows

    def damage(self, fractions: Sequence[float] | None = None) -> list[dict[str, Any]]:
        """Say which edits are damage, by the objective against the truth.

        A large drop is no proof that a function was found: a broken network drops too. An edit is
        damage where the interval of the lost share lies above 1.1: the edited model is worse than
        the baseline, by more than taking back an exact list comes to. A masking that costs another
        condition more than its own is not selective.

        Args:
            fractions: some of those that were measured; all by default.

        Returns:
            Rows of `method`, `function`, `fraction`; `lost_share`, `low`, `high`: the share of the
            fine-tuning's gain on the function that the edit loses, NaN where there was none;
            `selectivity`: the measured drop over the largest of another function (None if there is
            no other, or no start at 0); `damage`; `selective`, None where it is not known; and the
            `reason`, what is wrong in words.

        Raises:
            UnitError: if the comparison was not given the truth.
        """
        if self.truth is None:
            raise UnitError(
                "the comparison does not know the truth: give compare(..., truth={function: "
                "measure}), each the objective against the truth, lower for a better model"
            )
        wanted = self.fractions if fractions is None else with_fractions(fractions)
        rows = []
        for method, functions in self.rankings.items():
            for function, fraction in product(functions, wanted):
                verdict = self.truth.judged(method, function, fraction, self.bootstrap)
                rows.append(
                    {
                        **{"method": method, "function": function, "fraction": fraction},
                        **dict(zip(("lost_share", "low", "high"), verdict.lost, strict=True)),
                        "selectivity": self._least_selective(method, function, fraction),
                        **verdict.marks,
                    }
                )
        return rows

    def areas(self) -> list[dict[str, Any]]:
        """Give each method's normalised area under the curve of each function's own measure.

        Returns:
            Rows of `method`, `function`, `value`, `low`, `high`; 0 is random, 1 all units at once.
        """
        return [
            {
                "method": method,
                "function": function,
                **curve.area(self.curves[CONTROL, function, function], self.bootstrap)._asdict(),
            }
            for (method, function, measured), curve in self.curves.items()
            if function == measured
        ]

    def leads(self, fraction: float) -> list[dict[str, Any]]:
        """Give how far the first method is ahead of each other one, sample by sample.

        Intervals of two methods may overlap though one is ahead on nearly every sample: this is
        the interval of the difference itself, over paired samples.

        Returns:
            Rows of `method` (the first), `other`, `function`, `fraction`, `value`, `low`, `high`:
            the first method's measure of the function minus the other's.
        """
        first = next(iter(self.rankings))
        rows = []
        for (method, function, measured), curve in self.curves.items():
            if function == measured and method != first:
                own = self.curves[first, function, function]
                place = self.fractions.index(float(fraction))
                lead = Curve((fraction,), (own.values - curve.values)[place : place + 1])
                names = {"method": first, "other": method, "function": function}
                found = lead.at(fraction, self.bootstrap)
                rows.append({**names, "fraction": fraction, **found._asdict()})
        return rows

    def selectivity(self, fraction: float) -> list[dict[str, Any]]:
        """Give what each function lost over what another lost, with the same units exchanged.

        Returns:
            Rows of `method`, `function`, `other`, `fraction`, `value`, `low`, `high`.
        """
        rows = []
        for names, curve in self._named("other"):
            if names["function"] != names["other"]:
                own = self.curves[names["method"], names["function"], names["function"]]
                found = own.selectivity(curve, fraction, self.bootstrap)
                rows.append({**names, "fraction": fraction, **found._asdict()})
        return rows

    def agreements(self, fraction: float = 0.01) -> list[dict[str, Any]]:
        """Compare the first ranking of every two methods, function by function.

        Returns:
            Rows of `function`, `method`, `other`, `spearman`, `overlap` (see `agreement`).
        """
        rows = []
        methods = list(self.rankings)
        for place, method in enumerate(methods):
            for other in methods[place + 1 :]:
                for function, scores in self.rankings[method].items():
                    found = agreement(
                        scores[0], self.rankings[other][function][0], fraction=fraction
                    )
                    names = {"function": function, "method": method, "other": other}
                    rows.append({**names, **found._asdict()})
        return rows

    def _least_selective(self, method: str, function: str, fraction: float) -> float | None:
        others = [
            key for key in self.curves if key[:2] == (method, function) and key[2] != function
        ]
        if not others or self.fractions[0] != 0:
            return None
        own = self.curves[method, function, function]
        once = replace(self.bootstrap, resamples=1)
        return min(own.selectivity(self.curves[key], fraction, once).value for key in others)

    def _named(self, measured: str) -> Iterator[tuple[dict[str, str], Curve]]:
        # The names that each curve's rows begin with; what was measured is called `measured`.
        for (method, function, other), curve in self.curves.items():
            yield {"method": method, "function": function, measured: other}, curve


def compare(
    model: nn.Module,
    baseline: Baseline,
    rankings: Mapping[str, Ranking | Mapping[str, Ranking]],
    measures: Mapping[str, Measure],
    *,
    fractions: Sequence[float] = FRACTIONS,
    edit: str = "masking",
    bootstrap: Bootstrap | None = None,
    truth: Mapping[str, Measure] | None = None,
    toward: Baseline | None = None,
    checkpoint: str | Path | None = None,
    show_progress: bool = False,
    advance: Callable[[float], None] = lambda amount: None,
    distributed: Distributed = False,
) -> Comparison:
    """Exchange the top units of every method's ranking and measure every function.

    Args:
        model: the target, in evaluation mode. It is edited in place and restored to the bit
            between edits.
        baseline: where the values come from, or a mapping of names to tensors.
        rankings: method to scores, or to a mapping of function to scores where the method ranks
            anew for each function. Several scores in a list are averaged. `"random"` is the
            control; three draws are added where it is missing.
        measures: maps each function's name to a callable of the model that gives `(B,)`, one number
            per sample.
        fractions: shares of the units, from 0 to 1.
        edit: `"masking"` (the target's top units become the baseline's) or `"insertion"` (the
            baseline's become the target's).
        bootstrap: how intervals are drawn; 1,000 resamples at 95% by default.
        truth: condition to the objective against the truth, of the model, lower for a better one,
            one number per sample: for every function of `measures`, and for conditions beside
            them. With it the comparison says which edits are damage.
        toward: what the edits exchange the units for, such as a near point of the path,
            `path.evaluate(0.25)`; the baseline by default. What is lost is still a share of what
            separates the target from the baseline.
        checkpoint: a file that keeps what was measured, as `masking_curve` keeps it.
        show_progress: draw a bar on stderr.
        advance: called with 1 after each edited model.
        distributed: as in `masking_curve`: the ranks share the edited models.

    Returns:
        The comparison: curves, rows, areas, selectivity, agreement.

    Raises:
        ParamattrError: before any measuring, for a ranking of other units or a function without
            one; then what `masking_curve` raises.

    Source: Xie et al. 2021, Tab. 2 and Fig. 3, for any model and measure.
    """
    if not rankings or not measures:
        raise UnitError("compare needs at least one ranking and one measure: found none")
    spread = {
        method: {function: _of(ranking, method, function) for function in measures}
        for method, ranking in rankings.items()
    }
    index = next(iter(next(iter(spread.values())).values()))[0].index
    for method, functions in spread.items():
        for scores in (s for several in functions.values() for s in several):
            check_same_units(index, scores.index, f"comparing {method!r}")
    if CONTROL not in spread:
        control = [random_scores_of(index, seed=seed) for seed in range(3)]
        spread[CONTROL] = dict.fromkeys(measures, control)
    truth = _checked_truth(truth or {}, measures)
    fractions = with_fractions(fractions)
    distinct = distinct_scores(spread)
    drawn = curves(
        model,
        baseline if toward is None else toward,
        distinct,
        [*measures.values(), *truth.values()],
        fractions=fractions,
        edit=edit,
        checkpoint=checkpoint,
        show_progress=show_progress,
        advance=advance,
        distributed=distributed,
    )
    by_scores = {id(scores): own for scores, own in zip(distinct, drawn, strict=True)}
    found: dict[tuple[str, str, str], Curve] = {}
    judged: dict[tuple[str, str, str], Curve] = {}
    for method, functions in spread.items():
        for function, several in functions.items():
            for place, measured in enumerate([*measures, *truth]):
                parts = [by_scores[id(scores)][place].values for scores in several]
                mean = Curve(fractions, torch.stack(parts).mean(0))
                (found if place < len(measures) else judged)[method, function, measured] = mean
    known = Truth(measure_ends(model, baseline, truth), judged, edit) if truth else None
    return Comparison(spread, found, fractions, bootstrap or Bootstrap(), known)


def _checked_truth(
    truth: Mapping[str, Measure], measures: Mapping[str, Measure]
) -> Mapping[str, Measure]:
    missing = [function for function in measures if function not in truth]
    if truth and missing:
        raise UnitError(
            f"function {missing[0]!r} has no truth: found {', '.join(map(repr, truth))}; give the "
            "objective against the truth for every function that is measured"
        )
    return truth


def distinct_scores(rankings: Mapping[str, Mapping[str, Sequence[Scores]]]) -> list[Scores]:
    """List the rankings once each: one that serves several functions is measured once."""
    found = {
        id(scores): scores
        for functions in rankings.values()
        for several in functions.values()
        for scores in several
    }
    return list(found.values())


def _of(ranking: Any, method: str, function: str) -> list[Scores]:
    if isinstance(ranking, Mapping):
        if function not in ranking:
            raise UnitError(
                f"method {method!r} has no ranking for {function!r}: found "
                f"{', '.join(map(repr, ranking)) or 'none'}; give one for each measure"
            )
        ranking = ranking[function]
    several = [ranking] if isinstance(ranking, Scores) else ranking
    if (
        not isinstance(several, Sequence)
        or not several
        or not all(isinstance(s, Scores) for s in several)
    ):
        raise UnitError(
            f"the ranking of method {method!r} is {several!r}: expected Scores, or a list of them"
        )
    return list(several)


def _write(path: str | Path, parts: Comparison) -> None:
    """Write a comparison to a safetensors file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    distinct = distinct_scores(parts.rankings)
    numbers = {id(scores): number for number, scores in enumerate(distinct)}
    tensors, metadata = distinct[0].index.to_tensors()
    held: dict[int, str] = {}  # scores of one call share what pairs them: it is written once
    listed = []
    for number, scores in enumerate(distinct):
        own, notes = scores.to_tensors()
        for name, tensor in own.items():
            if held.setdefault(id(tensor), f"rankings.{number}.{name}") not in tensors:
                tensors[held[id(tensor)]] = tensor
        listed.append({"notes": notes, "tensors": {n: held[id(t)] for n, t in own.items()}})
    tensors |= _apart("curves", parts.curves)
    about = {
        "kind": "comparison",
        "scores": listed,
        "rankings": [
            [method, function, [numbers[id(scores)] for scores in several]]
            for method, functions in parts.rankings.items()
            for function, several in functions.items()
        ],
        "curves": [list(names) for names in parts.curves],
        "fractions": list(parts.fractions),
        "bootstrap": asdict(parts.bootstrap),
    }
    if parts.truth is not None:
        tensors |= _apart("truth", parts.truth.curves)
        for number, ends in enumerate(parts.truth.ends.values()):
            tensors |= {f"ends.{number}.{name}": end for name, end in ends._asdict().items()}
        about["truth"] = {
            "ends": list(parts.truth.ends),
            "curves": [list(names) for names in parts.truth.curves],
            "edit": parts.truth.edit,
        }
    save_state_dict(path, tensors, {**metadata, **about})


def _read(path: str | Path) -> Comparison:
    """Read what `_write` wrote.

    Raises:
        CheckpointError: if the file is missing, broken, or holds no comparison.
    """
    expected = "a comparison, written by Comparison.save"
    tensors, about = load_kind(path, "comparison", expected)
    with taken_apart(path, "a comparison"):
        index = UnitIndex.from_tensors(tensors, about)
        scores = [
            Scores.from_tensors(
                index, {n: tensors[held] for n, held in own["tensors"].items()}, own["notes"]
            )
            for own in about["scores"]
        ]
        rankings: dict[str, dict[str, list[Scores]]] = {}
        for method, function, numbers in about["rankings"]:
            rankings.setdefault(method, {})[function] = [scores[number] for number in numbers]
        fractions = tuple(map(float, about["fractions"]))
        truth, curves = None, _together("curves", tensors, about["curves"], fractions)
        if "truth" in about:
            truth = Truth(
                {
                    name: Ends(tensors[f"ends.{n}.target"], tensors[f"ends.{n}.baseline"])
                    for n, name in enumerate(about["truth"]["ends"])
                },
                _together("truth", tensors, about["truth"]["curves"], fractions),
                about["truth"]["edit"],
            )
        return Comparison(rankings, curves, fractions, Bootstrap(**about["bootstrap"]), truth)


def _apart(kind: str, curves: Mapping[tuple[str, str, str], Curve]) -> dict[str, Tensor]:
    return {f"{kind}.{number}": curve.values for number, curve in enumerate(curves.values())}


def _together(
    kind: str, tensors: Mapping[str, Tensor], names: list[Any], fractions: tuple[float, ...]
) -> dict[tuple[str, str, str], Curve]:
    found = {}
    for number, (method, function, measured) in enumerate(names):
        values = tensors[f"{kind}.{number}"]
        if values.ndim != 2 or len(values) != len(fractions) or not values.is_floating_point():
            raise UnitError(
                f"{kind} {number} is {values.dtype} of shape {tuple(values.shape)}: expected "
                f"floating-point numbers of {len(fractions)} fractions"
            )
        found[method, function, measured] = Curve(fractions, values)
    return found
