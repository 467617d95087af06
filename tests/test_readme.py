"""The README's Python lines, run as they stand on three kinds of models."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from blind_sr.setting import Setting
from paramattr import Selection, cross_entropy, squared_error

[LINES] = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)


def classifier():
    torch.manual_seed(0)
    baseline = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).eval()
    images, classes = torch.rand(4, 3, 6, 6), torch.randint(4, (4,))
    loaders = [[(images * scale, classes)] for scale in (1.0, 0.1)]
    return baseline, "output_channel", cross_entropy, images, classes, *loaders


def hugging_face():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**sizes, intermediate_size=64, vocab_size=30)
    tokens, classes = torch.randint(30, (4, 6)), torch.tensor([0, 1, 0, 1])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    loaders = [[{**inputs, "labels": labels}] for labels in (classes, 1 - classes)]
    model = BertForSequenceClassification(config).eval()
    return model, "neuron", cross_entropy, inputs, classes, *loaders


@pytest.mark.parametrize("kind", [classifier, hugging_face])
def test_the_lines_run_on_models_of_ones_own(kind):
    baseline, unit, objective, inputs, targets, blurry, noisy = kind()
    target = copy.deepcopy(baseline)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    check(target, baseline, unit, objective, inputs, targets, blurry, noisy)


def test_the_lines_run_on_the_bundled_pair():
    setting = Setting(network="srcnn", crop=16)
    pair, photographs = setting.load_pair(), setting.load_photographs().only(0)
    blurry, noisy = (photographs.pairs(condition) for condition in ("blur", "noise"))
    inputs, truth = blurry[0]
    check(pair.target, pair.baseline, "kernel", squared_error, inputs, truth, blurry, noisy)


def check(target, baseline, unit, objective, inputs, targets, blurry, noisy):
    before = copy.deepcopy(target.state_dict())
    names = {
        "target": target,
        "baseline": baseline,
        "objective": objective,
        "unit": unit,
        "inputs": inputs,
        "targets": targets,
        "blurry": blurry,
        "noisy": noisy,
    }
    exec(LINES, names)  # the README's own text
    changes = sum(values.sum() for values in names["attr"].values())
    with torch.no_grad():
        given = inputs if isinstance(inputs, dict) else {}
        ends = [
            objective(model(**given) if given else model(inputs), targets).sum()
            for model in (baseline, target)
        ]
    assert changes == pytest.approx((ends[0] - ends[1]).item(), rel=0.02)
    assert isinstance(names["found"], Selection)
    assert len(names["found"]) > 0
    lost = names["lost"].state_dict()
    assert any(not torch.equal(lost[name], before[name]) for name in before)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
