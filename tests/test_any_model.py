"""Any pair of models, as it is handed in: complete, exchanged bit for bit, all in units."""

import pytest

from benchmarks.bench_models import Config, measure
from benchmarks.model_pairs import PAIRS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*of no unit.*", "ignore:.*missing or of another shape.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(transformers|peft|torch)"),
]


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_as_it_is_handed_in(name):
    jumps = name == "Mixtral, twice the change"  # and no number of evaluations would be enough
    row = measure(name, Config(most=150 if jumps else 500))
    assert row["residual"] < 0.01 or row["jump"]
    assert row["substituted"] == 0.0
    assert row["units"] == pytest.approx(1, abs=1e-6)
    assert row["jump"] == jumps
