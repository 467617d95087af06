"""Heads and neurons of families of transformers and timm, planted and switched off.

`benchmarks/bench_units.py` does this over all families; here are a few, its own limits, and what
its committed result says.
"""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import unit_families as made
from benchmarks.bench_units import check
from benchmarks.environment import RESULTS
from paramattr.units.grid import OfModel, Units, asked_of
from paramattr.units.reducers import get_reducer

pytest.importorskip("transformers")

FAMILIES = (
    "bigcode, one key",
    "deberta-v2, relative",
    "falcon, grouped",
    "mpt",
    "olmo2",
    "qwen3",
    "swinv2",
    "t5, gated",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_unit_of_a_known_family_is_wrong(name):
    model, call = made.transformers_model(name)
    for units in ("attention_head", "neuron"):
        found = check(model, call, units)
        assert found["checked"] >= 2, found
        assert not found["why"], found["why"]


@OfModel
def shifted(model):
    """Give the columns of each head to the next one."""
    asked = asked_of(get_reducer("attention_head"), model)

    def rule(name, parameter, module):
        units = asked(name, parameter, module)
        if isinstance(units, Units) and name.endswith("o_proj.weight"):
            return replace(units, labels=(units.labels + 1) % units.shape[0])
        return units

    return rule


def test_the_check_finds_heads_whose_columns_are_anothers():
    model, call = made.transformers_model("qwen3")
    found = check(model, call, shifted)
    assert found["wrong"] == found["checked"] > 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: pip install --no-deps timm (it asks for torchvision)",
)
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("coatnet_nano_rw_224", []),
        ("maxvit_pico_rw_256", []),
        ("tiny_vit_5m_224", ["TinyVitBlock"]),  # of its attention, the table of biases alone
        ("nest_tiny_jx", []),
        ("swin_tiny_patch4_window7_224", []),
        ("cait_xxs24_224", ["TalkingHeadAttn"]),  # its last two blocks have heads apart
    ],
)
def test_heads_of_timm_are_right_or_refused(name, refused):
    found = check(*made.timm_model(name), "attention_head")
    assert not found["why"], found["why"]
    assert found["refused"] == refused
    assert found["checked"] > 0


def test_the_committed_result_has_no_wrong_unit_and_the_page_quotes_it():
    result = json.loads((RESULTS / "units.json").read_text())
    assert result["wrong"] == 0
    page = (Path(__file__).parents[1] / "docs" / "units.md").read_text()
    quoted = re.search(r"(\d+)\s+families, ([\d,]+) blocks and ([\d,]+) units", page)
    assert quoted is not None
    numbers = [int(number.replace(",", "")) for number in quoted.groups()]
    assert numbers == [result[name] for name in ("families", "blocks", "checked")]
