"""Threads side by side: the same results in the same order, and nothing left behind."""

from __future__ import annotations

import threading
import time
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from paramattr import FAIG, Adaptive, ParamattrError
from paramattr.runtime.workers import in_order
from tests.kills import check_resumes


def test_results_come_in_the_order_of_the_tasks_and_no_worker_is_shared():
    busy, seen = set(), set()

    def work(worker, task):
        assert worker not in busy
        busy.add(worker)
        seen.add((worker, threading.current_thread().name))
        time.sleep(0.02 if task % 3 == 0 else 0.001)  # the first of three is the slowest
        busy.discard(worker)
        return task

    assert list(in_order(work, ["a", "b", "c"], range(12))) == list(range(12))
    assert len({worker for worker, _ in seen}) > 1
    assert threading.current_thread().name not in {thread for _, thread in seen}


def test_no_task_is_drawn_far_ahead_of_the_caller():
    drawn = []

    def tasks():
        for number in range(10):
            drawn.append(number)
            yield number

    results = in_order(lambda _, task: task, [0, 1], tasks())
    next(results)
    assert len(drawn) == 3
    results.close()
    assert len(drawn) == 3


def test_an_error_comes_at_its_turn_and_ends_the_work():
    begun = []

    def work(_, task):
        begun.append(task)
        if task == 2:
            raise ValueError(f"task {task}")
        return task

    results, found = in_order(work, [0, 1], range(100)), []
    with pytest.raises(ValueError, match="task 2"):
        found.extend(results)
    assert found == [0, 1]
    assert len(begun) < 8
    assert not [one for one in threading.enumerate() if one.name.startswith("paramattr")]


def test_torchs_threads_are_shared_out_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert set(in_order(lambda *_: torch.get_num_threads(), [0, 1], range(4))) == {2}
        assert torch.get_num_threads() == 4
        found = []
        late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        late.start()
        late.join()
        assert found == [4]
    finally:
        torch.set_num_threads(before)


def test_autocast_reaches_the_workers():
    with torch.autocast("cpu", torch.bfloat16):
        kinds = list(in_order(lambda *_: torch.eye(2).mm(torch.eye(2)).dtype, [0, 1], range(3)))
    assert kinds == [torch.bfloat16] * 3


class Shared(nn.Module):
    """Tied weights, a buffer, and one module in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.last = nn.Linear(4, 3)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.last(self.tied(self.norm(torch.tanh(self.again(torch.tanh(self.first(x)))))))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Shared().eval().double(), Shared().eval().double()


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("sizes", [[1] * 7, [5, 2], [1, 4]])
@pytest.mark.parametrize("at_once", [None, 2])
def test_scores_do_not_depend_on_the_workers(pair, workers, sizes, at_once):
    loader = [(torch.randn(n, 4).double(), torch.randn(n, 3).double()) for n in sizes]
    before = {name: value.clone() for name, value in pair[0].state_dict().items()}
    options = {"reducer": "scalar", "n_steps": 4, "internal_batch_size": at_once}
    alone = FAIG(*pair).score(loader, **options)
    several = FAIG(*pair, workers=workers).score(loader, **options)
    torch.testing.assert_close(several.values, alone.values, rtol=1e-12, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in pair[0].state_dict().items())


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("at_once", [None, 2])
def test_attributions_do_not_depend_on_the_workers(pair, per_sample, at_once):
    data = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    options = {
        "internal_batch_size": at_once,
        "per_sample": per_sample,
        "return_convergence_delta": True,
    }
    alone, delta = FAIG(*pair).attribute(*data, **options)
    several, other = FAIG(*pair, workers=2).attribute(*data, **options)
    torch.testing.assert_close(several, alone, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(other, delta, rtol=1e-6, atol=1e-11)


def test_a_run_with_workers_that_was_killed_goes_on_where_it_stopped(pair, tmp_path):
    loader = [(torch.randn(2, 4).double(), torch.randn(2, 3).double()) for _ in range(6)]
    score = partial(FAIG(*pair, workers=2).score, reducer="layer")
    whole, part = (tmp_path / f"{name}.safetensors" for name in ("whole", "part"))
    score(loader, checkpoint=whole)
    check_resumes(score, loader, 4, part)
    assert part.read_bytes() == whole.read_bytes()


def test_the_copies_hold_the_models_own_tensors(pair):
    from paramattr.integration.model import FunctionalModel

    replica = FunctionalModel(pair[0]).replica().model
    assert replica is not pair[0]
    assert replica.first is not pair[0].first
    for name, value in pair[0].named_parameters():
        assert replica.get_parameter(name) is value


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "two"])
def test_a_wrong_number_of_workers_is_refused(pair, workers):
    with pytest.raises(ParamattrError, match=r"workers is .*: expected a whole number"):
        FAIG(*pair, workers=workers)


@pytest.mark.parametrize(
    ("options", "method"),
    [({"compile": True}, "gausslegendre"), ({}, "adaptive"), ({}, Adaptive(rtol=0.1))],
)
def test_what_workers_cannot_share_is_refused_early(pair, options, method):
    with pytest.raises(ParamattrError, match="use workers=1"):
        FAIG(*pair, workers=2, **options).score([], reducer="layer", method=method)


def test_a_model_that_cannot_be_copied_is_refused_with_the_way_out(pair):
    pair[0].lock = threading.Lock()
    with pytest.raises(ParamattrError, match=r"cannot be copied .*use workers=1"):
        FAIG(*pair, workers=2).attribute(torch.randn(2, 4).double(), torch.randn(2, 3).double())


def test_a_warning_of_precision_points_at_the_callers_line(pair):
    model, baseline = pair
    data = [(torch.randn(1, 4).double(), torch.randn(1, 3).double())] * 2
    for workers in (1, 2):
        faig = FAIG(model, baseline, dtype=torch.bfloat16, workers=workers)
        faig.objective = lambda output, _: (1e6 * output).sin().sum(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            faig.score(data, reducer="layer", n_steps=2)
        here = [one for one in caught if "precision" in str(one.message)]
        assert [one.filename for one in here] == [__file__]
