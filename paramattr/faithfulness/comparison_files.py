"""Files of comparisons: every curve, every ranking once, and what the truth says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from paramattr.errors import UnitError
from paramattr.faithfulness.curves import Bootstrap, Curve
from paramattr.faithfulness.damage import Ends, Truth
from paramattr.files.reading import load_kind, save_state_dict, taken_apart
from paramattr.units.index import UnitIndex
from paramattr.units.scores import Scores

Curves = Mapping[tuple[str, str, str], Curve]


class Parts(NamedTuple):
    """What a comparison is made of; its attributes, in its order."""

    rankings: dict[str, dict[str, list[Scores]]]
    curves: dict[tuple[str, str, str], Curve]
    fractions: tuple[float, ...]
    bootstrap: Bootstrap
    truth: Truth | None


def write_comparison(path: str | Path, parts: Parts) -> None:
    """Write a comparison to a safetensors file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    every = [
        scores
        for functions in parts.rankings.values()
        for several in functions.values()
        for scores in several
    ]
    distinct = list({id(scores): scores for scores in every}.values())
    numbers = {id(scores): number for number, scores in enumerate(distinct)}
    tensors, metadata = every[0].index.to_tensors()
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


def read_comparison(path: str | Path) -> Parts:
    """Read what `write_comparison` wrote.

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
        return Parts(rankings, curves, fractions, Bootstrap(**about["bootstrap"]), truth)


def _apart(kind: str, curves: Curves) -> dict[str, Tensor]:
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
