import os
from functools import partial

import pytest
import torch
from hypothesis import settings

# A busy machine is no fault of a test: examples have no deadline, and are the same at every run.
settings.register_profile("paramattr", deadline=None, derandomize=True)
# `make fuzz`: other examples at every run, and many.
settings.register_profile("fuzz", deadline=None, max_examples=20_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "paramattr"))


@pytest.fixture(scope="module")
def one_thread():
    """Run a module's tiny layers on one thread: several would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base():
    """A tiny BERT."""
    from tests.folders import bert

    return bert()


@pytest.fixture(scope="module")
def tuned(base):
    """The same with one head altered, and all else moved a little."""
    from tests.folders import moved

    return moved(base)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, the same with one head altered, and texts."""
    from tests.folders import write_pair

    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def ran(folder):
    """Call the command line in the folder: its exit code, what it printed, and its complaints."""
    from tests.command_line import call

    return partial(call, folder=folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two ranks of one group, for as long as a module of tests runs."""
    from tests.ranks import Ranks

    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()
