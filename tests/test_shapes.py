"""The shapes that stand in the types hold when the package is used."""

import subprocess
import sys
import textwrap
from pathlib import Path

PIPELINE = """
import tests.type_check
from jaxtyping import install_import_hook

with install_import_hook(["paramattr", "blind_sr"], "tests.type_check.check"):
    import paramattr
    from blind_sr.data import degradations, measures
    from blind_sr.models.networks import SRResNet
    from paramattr import objectives

import torch
from jaxtyping import TypeCheckError

torch.manual_seed(0)
target, baseline = (SRResNet(features=4, blocks=1).eval() for _ in range(2))
high = torch.rand(2, 3, 24, 24)
low = degradations.degrade(high, "both", torch.Generator().manual_seed(0))
faig = paramattr.FAIG(target, baseline)
attributions, delta = faig.attribute(
    low, high, n_steps=2, per_sample=True, return_convergence_delta=True
)
faig.compute_convergence_delta(attributions, low, high)
for reducer in ("scalar", "kernel", "output_channel", "input_channel", "layer"):
    found = faig.score([(low, high)], reducer=reducer, n_steps=2).top(fraction=0.5)
    edited = paramattr.modulate(target, baseline, found, 0.5)
    [found.mask(name) for name, _ in target.named_parameters()]
paramattr.retrain_only(target, found)
block, other = (torch.nn.TransformerEncoderLayer(8, 2, 4) for _ in range(2))
for reducer in ("attention_head", "neuron"):
    scores = paramattr.absolute_change(block, other, reducer=reducer)
    paramattr.substitute(block, other, (scores - 0.5 * scores).top(count=1))
    scores.by_layer()
    scores.index.reduce_with_rest(dict(block.named_parameters()))
measures.psnr(edited(low), high)
measures.output_difference(edited(low), high)
objectives.cross_entropy(torch.zeros(2, 5), torch.tensor([1, 2]))
"""

WRONG = """
try:
    measures.psnr(high, high[:1])
except TypeCheckError:
    print("refused")
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )


def test_a_whole_analysis_keeps_to_the_shapes_and_a_wrong_one_is_seen():
    ran = run(PIPELINE + WRONG)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout == "refused\n"
