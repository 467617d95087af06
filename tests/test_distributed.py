"""Several processes that share the samples: what one process finds, on every rank."""

import math
import os
import re
import threading
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from paramattr import (
    FAIG,
    Adaptive,
    InputPathIntegratedGradients,
    ParamattrError,
    compare,
    fisher_times_change,
    gradient_times_change,
    self_reference,
    substitution_effect,
)
from paramattr.files.reading import load_tensors
from paramattr.methods.captum import captum_scores
from paramattr.runtime import ranks
from paramattr.runtime.ranks import Ranks as Group
from tests.kills import cut
from tests.models import mlp, other_weights, pair_of, random_batches
from tests.ranks import Ranks

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(seed=0):
    return pair_of(lambda: mlp(3, 5, 2), scale=0.2, seed=seed)


def loader(sizes, seed=1):
    return random_batches(sizes, (3,), (2,), seed=seed)


def plain(scores):
    """Take scores apart, so that they travel between processes."""
    if isinstance(scores, dict):
        return {name: plain(one) for name, one in scores.items()}
    return {
        "values": scores.values,
        "signed": scores.signed,
        "standard_error": scores.standard_error,
        "signed_error": scores.signed_error,
        "unassigned": torch.tensor(scores.unassigned, dtype=torch.float64),
        "residual": torch.tensor(scores.residual, dtype=torch.float64),
        "samples": scores.samples,
    }


def assert_alike(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13, equal_nan=True)


def faig(sizes, distributed, **options):
    scores = FAIG(*pair()).score(
        loader(sizes), reducer=["layer", "scalar"], n_steps=3, distributed=distributed, **options
    )
    return plain(scores)


def conditions(first, second, distributed):
    found = FAIG(*pair()).score(
        {"blur": loader(first, 1), "noise": loader(second, 2)},
        reducer="scalar",
        n_steps=2,
        distributed=distributed,
    )
    difference = found["blur"] - found["noise"]
    return [plain(found), difference.standard_error, difference.by("sign").standard_error]


def referenced(sizes, distributed):
    target, baseline = pair()
    scores = FAIG(target, baseline, objective=self_reference).score(
        [inputs for inputs, _ in loader(sizes)], reducer="layer", distributed=distributed
    )
    return plain(scores)


def adaptive(sizes, distributed):
    method = FAIG(*pair())
    scores = method.score(
        loader(sizes), reducer="layer", method=Adaptive(), distributed=distributed
    )
    return plain(scores), sorted(one.evaluations for one in method.spent)


def input_path(sizes, distributed):
    data = [(inputs, torch.zeros_like(inputs)) for inputs, _ in loader(sizes)]
    method = InputPathIntegratedGradients(pair()[0])
    return plain(method.score(data, reducer="layer", n_steps=3, distributed=distributed))


def first_order(method, sizes, distributed):
    return plain(method(*pair(), loader(sizes), reducer="scalar", distributed=distributed))


def captum(sizes, distributed):
    pytest.importorskip("captum")
    return plain(
        captum_scores(
            "layer-gradient-x-activation",
            pair()[0],
            ["0", "2"],
            loader(sizes),
            distributed=distributed,
        )
    )


def substitution(sizes, budget, distributed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = substitution_effect(
            *pair(), loader(sizes), "scalar", budget=budget, distributed=distributed
        )
    return plain(found)


def profile(sizes, distributed):
    found = FAIG(*pair()).path_profile(loader(sizes), n_points=5, distributed=distributed)
    return [found.values, found.samples]


def comparison(sizes, distributed, seed=0, folder=None):
    target, baseline = pair()
    data = loader(sizes, seed=1 + seed)

    def measure(model):
        return torch.cat([(model(x) - y).square().sum(1) for x, y in data])

    ranking = FAIG(target, baseline).score(loader([3]), reducer="scalar", n_steps=2)
    found = compare(
        target,
        baseline,
        {"faig": ranking},
        {"fit": measure},
        fractions=(0, 0.1, 0.5, 1),
        truth={"fit": measure},
        distributed=distributed,
        checkpoint=folder and f"{folder}/curves.safetensors",
    )
    curves = {"/".join(key): curve.values for key, curve in found.curves.items()}
    return curves, [row["lost_share"] for row in found.damage()]


METHODS = {
    "faig": faig,
    "several at once": partial(faig, internal_batch_size=3),
    "self reference": referenced,
    "adaptive": adaptive,
    "input path": input_path,
    "gradient": partial(first_order, gradient_times_change),
    "fisher": partial(first_order, fisher_times_change),
    "captum": captum,
    "substitution": lambda sizes, distributed: substitution(sizes, None, distributed),
    "budget": lambda sizes, distributed: substitution(sizes, 4, distributed),
    "profile": profile,
    "compare": comparison,
}


def by_name(name, sizes, distributed):
    return METHODS[name](sizes, distributed)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_what_one_process_gives(two, name):
    for sizes in ([2, 2], [1, 4, 2], [1]):  # even shares, uneven ones, an empty rank
        expected = by_name(name, sizes, False)
        for found in two(by_name, name, sizes, True):
            assert_alike(found, expected)


@pytest.mark.parametrize("sizes", [([2, 3], [1, 4]), ([5], [1, 1, 1, 1, 1]), ([3], [2, 2])])
def test_conditions_are_paired_over_ranks(two, sizes):
    expected = conditions(*sizes, False)
    for found in two(conditions, *sizes, True):
        assert_alike(found, expected)


def test_the_share_matters(two):
    # Without a sum over ranks each would give the scores of its own samples.
    own = plain(FAIG(*pair()).score(loader([4]), reducer="layer", n_steps=3))
    half = [tuple(part[::2] for part in batch) for batch in loader([4])]
    other = plain(FAIG(*pair()).score(half, reducer="layer", n_steps=3))
    assert not torch.allclose(own["values"], other["values"], rtol=1e-3)


def one_rank(sizes):
    group = dist.new_group([1])
    return faig(sizes, group) if dist.get_rank() == 1 else None


def test_a_group_is_taken_as_it_is(two):
    nothing, found = two(one_rank, [2, 1])
    assert nothing is None
    assert_alike(found, faig([2, 1], False))


# What is refused


def shuffled(batches):
    order = torch.Generator().manual_seed(dist.get_rank())
    data = loader([1] * batches)
    data = [data[place] for place in torch.randperm(batches, generator=order).tolist()]
    FAIG(*pair()).score(data, reducer="layer", distributed=True)


def longer():
    data = loader([1] * 3) + loader([1] * dist.get_rank(), seed=5)
    FAIG(*pair()).score(data, reducer="layer", distributed=True)


def other_model():
    FAIG(*pair(dist.get_rank())).score(loader([2]), reducer="layer", distributed=True)


def other_units():
    reducer = ["layer", "scalar"][dist.get_rank()]
    FAIG(*pair()).score(loader([2]), reducer=reducer, distributed=True)


def other_profile():
    FAIG(*pair()).path_profile(loader([2], seed=dist.get_rank()), distributed=True)


def other_measures():
    comparison([3], True, seed=dist.get_rank())


def of_edits(folder):
    first = comparison([3], True, folder=folder)
    return first, comparison([3], True, folder=folder)


def test_the_ranks_share_the_edited_models(two, tmp_path):
    for first, again in two(of_edits, str(tmp_path)):
        assert_alike(again, first)
    kept = [load_tensors(file)[0] for file in sorted(tmp_path.iterdir())]
    own = [{name for name in one if not name.startswith(("unedited", "baseline"))} for one in kept]
    assert own[0]
    assert own[1]
    assert not own[0] & own[1]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (partial(shuffled, 6), "the data"),
        (longer, "the data"),
        (other_model, "the models"),
        (other_units, "the units"),
        (other_profile, "the data"),
        (other_measures, "a measure of the unedited model"),
    ],
)
def test_ranks_that_were_given_other_things_are_refused(two, call, what):
    outcomes = two.outcomes(call)
    assert all(is_error for is_error, _, _ in outcomes)
    messages = [message for _, message, _ in outcomes]
    assert all(message.startswith("RankError") for message in messages)
    assert any(f"{what}" in m and " between rank" in m for m in messages)


def one_fails():
    data = loader([1] * 4)
    data[3][1][:] = math.nan  # a sample of rank 1
    FAIG(*pair()).score(data, reducer="layer", distributed=True)


def test_a_rank_that_fails_stops_the_others_with_its_message(two):
    [first, second] = two.outcomes(one_fails)
    assert second[1].startswith("ObjectiveError")
    assert first[1].startswith("RankError: rank 1 failed: the objective is nan")
    for found in two(faig, [2, 1], True):  # the next call is as if nothing had been
        assert_alike(found, faig([2, 1], False))


def one_dies(folder):
    """The second rank's process ends without a word after its first sample."""
    ranks.SILENCE, ranks.BEAT = 3.0, 0.2

    def dying():
        for number, batch in enumerate(loader([1] * 4)):
            if number == 2 and dist.get_rank() == 1:
                os._exit(9)
            yield batch

    FAIG(*pair()).score(dying(), reducer="layer", distributed=True)


def test_a_rank_that_dies_stops_the_others_with_a_message(tmp_path):
    own = Ranks(2, tmp_path)
    first, second = own.connections
    for connection in (first, second):
        connection.send((one_dies, (str(tmp_path),)))
    with pytest.raises(EOFError):
        second.recv()
    assert first.poll(30)
    is_error, message, _ = first.recv()
    assert is_error
    assert message.startswith("RankError: rank 1 has given no sign of life for 3 seconds")
    own.close()


def warned():
    """A path that rises in its middle: each rank counts its warnings."""
    target, baseline = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for model, weight in ((target, -1.0), (baseline, 1.05)):
        nn.init.constant_(model.weight, weight)

    def bump(output, targets):
        return (1 - output.square()).flatten(1).sum(1) * 10 + output.flatten(1).sum(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FAIG(target, baseline, objective=bump).score(
            [torch.ones(8, 1)], reducer="layer", distributed=True
        )
    return [str(one.message) for one in caught]


def test_a_barrier_is_told_once_of_all_samples(two):
    [first, second] = two(warned)
    assert second == []
    [message] = first
    assert message.startswith("barrier")
    assert "on 8 samples" in message


def test_without_a_group_the_way_out_is_named():
    with pytest.raises(ParamattrError, match="torchrun"):
        faig([2], True)
    with pytest.raises(ParamattrError, match="torchrun"):
        Group(distributed="all")


def of_ranks(first, second):
    """Give one rank something else than the other."""
    return (first, second)[dist.get_rank()]


def error(output, targets):
    return (output - targets).square().sum(1)


def times(factor):
    return lambda output, targets: factor * error(output, targets)


def halved(attributions):
    return {name: value / 2 for name, value in attributions.items()}


class Bowed:
    """A path through other models, with the same ends."""

    def __init__(self, bow):
        self.start, self.end = ({n: p.detach() for n, p in m.named_parameters()} for m in pair())
        self.bow = bow

    def evaluate(self, alpha):
        shift = self.bow * alpha * (1 - alpha)
        return {n: torch.lerp(s, self.end[n], alpha) + shift for n, s in self.start.items()}

    def derivative(self, alpha):
        slope = self.bow * (1 - 2 * alpha)
        return {n: self.end[n] - s + slope for n, s in self.start.items()}


def score_of(made, scored):
    made, scored = of_ranks(({}, {}), (made, scored))
    options = {"reducer": "layer", "n_steps": 2, "distributed": True}
    FAIG(*pair(), **made).score(loader([2, 2]), **{**options, **scored})


def curved(bows):
    made = {"path": Bowed(of_ranks(*bows))}
    FAIG(*pair(), **made).score(loader([2, 2]), reducer="layer", distributed=True)


def profile_with(other):
    made = {"objective": of_ranks(times(1), times(other))}
    FAIG(*pair(), **made).path_profile(loader([2, 2]), n_points=3, distributed=True)


def profile_of_another_model():
    FAIG(*pair(dist.get_rank())).path_profile(loader([2, 2]), distributed=True)


def input_path_with(other):
    data = [(inputs, torch.zeros_like(inputs)) for inputs, _ in loader([2, 2])]
    method = InputPathIntegratedGradients(
        pair()[0], objective=of_ranks(lambda o, t: o.sum(1), lambda o, t: other * o.sum(1))
    )
    method.score(data, reducer="layer", distributed=True)


def substitution_with(other):
    objective = of_ranks(times(1), times(other))
    substitution_effect(*pair(), loader([2, 2]), "layer", objective=objective, distributed=True)


def captum_with(other):
    pytest.importorskip("captum")
    captum_scores(
        "layer-gradient-x-activation",
        pair()[0],
        ["0"],
        loader([2, 2]),
        objective=of_ranks(times(1), times(other)),
        distributed=True,
    )


def compare_with(edit):
    target, baseline = pair()
    [(x, y)] = loader([3])
    ranking = FAIG(target, baseline).score([(x, y)], reducer="scalar", n_steps=2)
    compare(
        target,
        baseline,
        {"faig": ranking},
        {"fit": lambda model: error(model(x), y)},
        fractions=(0, 0.5, 1),
        edit=of_ranks("masking", edit),
        distributed=True,
    )


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, scale):
        return self.layer(x) * scale[0]


def other_list():
    torch.manual_seed(0)
    target = Scaling().double().eval()
    data = [({"x": x, "scale": [of_ranks(1.0, 2.0)]}, y) for x, y in loader([2, 2])]
    FAIG(target, other_weights(target)).score(data, reducer="layer", distributed=True)


OTHERS = {
    "list in a batch": (other_list, "the data up to batch 1 differs"),
    "objective": (partial(score_of, {"objective": error}, {}), "the objective differs"),
    "function": (partial(score_of, {}, {"function": halved}), "the function differs"),
    "n_steps": (partial(score_of, {}, {"n_steps": 3}), "the settings differ"),
    "method": (partial(score_of, {}, {"method": "riemann_middle"}), "the settings differ"),
    "drawn": (partial(score_of, {}, {"method": "drawn"}), "the settings differ"),
    "parameters": (partial(score_of, {"parameters": ["0.weight"]}, {}), "the settings differ"),
    "dtype": (partial(score_of, {"dtype": torch.float32}, {}), "the (settings|models) differ"),
    "path": (partial(curved, (1.0, 2.0)), "the path differs"),
    "profile": (partial(profile_with, 2), "the objective differs"),
    "profile of another model": (profile_of_another_model, "the models differ"),
    "input path": (partial(input_path_with, 2), "the objective differs"),
    "substitution": (partial(substitution_with, 2), "the objective differs"),
    "captum": (partial(captum_with, 2), "the objective differs"),
    "edit": (partial(compare_with, "insertion"), "the settings differ"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ranks_that_make_other_calls_are_refused(two, name):
    call, what = OTHERS[name]
    outcomes = two.outcomes(call)
    assert all(is_error for is_error, _, _ in outcomes)
    messages = [message for _, message, _ in outcomes]
    assert all(message.startswith("RankError") for message in messages)
    assert any(re.search(f"{what} between rank", message) for message in messages)


def with_a_lock():
    """Make an objective that holds what cannot be seen, and is the same on both ranks."""
    lock = threading.Lock()

    def objective(output, targets):
        with lock:
            return error(output, targets)

    return plain(
        FAIG(*pair(), objective=objective).score(loader([2, 1]), reducer="layer", distributed=True)
    )


def test_what_cannot_be_seen_is_no_hindrance_to_ranks(two):
    expected = plain(FAIG(*pair()).score(loader([2, 1]), reducer="layer"))
    for found in two(with_a_lock):
        assert_alike(found, expected)


def refused_at_the_door():
    FAIG(*pair()).score(loader([2, 2]), reducer="layer", n_steps=of_ranks(2, 0), distributed=True)


def test_an_argument_that_one_rank_refuses_is_told_at_once(two):
    [first, second] = two.outcomes(refused_at_the_door)
    assert second[1].startswith("ParamattrError: gausslegendre takes at least 1 node")
    assert first[1].startswith("RankError: rank 1 failed: gausslegendre takes at least 1 node")


def missing():
    """The second rank fails before the call, and the first waits for it in vain."""
    silence, ranks.SILENCE = ranks.SILENCE, 0.5
    try:
        faig = FAIG(*pair(), objective=of_ranks(error, None))
        faig.score(loader([2, 2]), reducer="layer", distributed=True)
    finally:
        ranks.SILENCE = silence


def test_a_call_that_one_rank_never_made_does_not_put_the_next_out_of_step(two):
    [first, second] = two.outcomes(missing)
    assert second[1].startswith("ObjectiveError")
    assert first[1].startswith("RankError: rank 1 has given no sign of life")
    for found in two(faig, [2, 1], True):
        assert_alike(found, faig([2, 1], False))


# Resume


def resumed(folder):
    """Stop at the fourth batch, then call again; and once without a stop."""
    data, method = loader([1, 2, 1, 2, 3]), FAIG(*pair())

    options = {"reducer": "scalar", "n_steps": 2, "distributed": True}
    place = f"{folder}/sums.safetensors"
    with pytest.raises(ParamattrError if dist.get_rank() else KeyboardInterrupt):
        method.score(cut(data, 3) if dist.get_rank() == 0 else data, checkpoint=place, **options)
    dist.barrier()
    seen = []

    def counted():
        for batch in data:
            seen.append(batch)
            yield batch

    again = method.score(counted(), checkpoint=place, **options)
    whole = method.score(data, checkpoint=f"{folder}/whole.safetensors", **options)
    return again.values, whole.values


def test_each_rank_resumes_from_its_own_file(two, tmp_path):
    for again, whole in two(resumed, str(tmp_path)):
        assert torch.equal(again, whole)
        expected = FAIG(*pair()).score(loader([1, 2, 1, 2, 3]), reducer="scalar", n_steps=2)
        assert_alike(whole, expected.values)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        f"{kind}.rank{rank}of2.safetensors" for kind in ("sums", "whole") for rank in (0, 1)
    ]
