import pytest
from torch import nn

from blind_sr.models import networks
from blind_sr.models.pairs import load_pair
from blind_sr.training import trainer

from .made_up import SMALL, write_pair, write_photographs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photographs, and the weights of a small pair."""
    folder = tmp_path_factory.mktemp("photographs")
    write_pair(folder, "srresnet", SMALL["srresnet"])
    return write_photographs(folder, 2, (44, 40))


@pytest.fixture(scope="module")
def pair():
    return load_pair("srresnet")


@pytest.fixture(scope="module")
def small():
    """Put small networks in the place of the study's, and draw no curves of their training."""
    with pytest.MonkeyPatch.context() as patch:
        for name, network in SMALL.items():
            patch.setitem(networks.NETWORKS, name, network)
        patch.setattr(trainer, "draw_curves", lambda *arguments: None)
        yield


@pytest.fixture
def no_work(monkeypatch):
    """Let no network run."""

    def begun(*arguments, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr(nn.Module, "__call__", begun)
