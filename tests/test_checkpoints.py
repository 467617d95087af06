import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramattr import load_state_dict, save_state_dict
from paramattr.errors import CheckpointError
from paramattr.files.reading import WRAPPINGS, load_tensors
from tests.tiny import convnet, moved, tied

STATE = convnet().state_dict()
OTHER = moved(convnet()).state_dict()


def same(found, expected) -> bool:
    return list(found) == list(expected) and all(
        found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in expected
    )


def torch_file(path: Path, content, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def safetensors_file(path: Path, content, *, legacy: bool = False) -> Path:
    save_state_dict(path, content)
    return path


class RunsCode:
    """Would make a file, if the file it is pickled into were read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["state", "state.pth", "state.safetensors"])
def test_a_safetensors_file_is_known_by_its_content(tmp_path, name):
    save_state_dict(tmp_path / name, STATE)
    found = load_state_dict(str(tmp_path / name))
    assert sorted(found) == sorted(STATE)
    assert same({n: found[n] for n in STATE}, STATE)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_is_read(tmp_path, legacy):
    assert same(load_state_dict(torch_file(tmp_path / "s.pth", STATE, legacy=legacy)), STATE)


@settings(max_examples=10)
@given(
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_every_precision_and_shape_comes_back(tmp_path_factory, dtype, shape):
    path = tmp_path_factory.mktemp("file") / "s"
    state = {"w": torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)}
    save_state_dict(path, state)
    assert same(load_state_dict(path), state)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_are_taken_off(tmp_path, wrapping):
    path = torch_file(tmp_path / "s.pth", {"epoch": 3, wrapping: STATE})
    assert same(load_state_dict(path), STATE)


@pytest.mark.parametrize("order", [1, -1])
def test_the_average_is_preferred(tmp_path, order):
    content = dict([("params", OTHER), ("params_ema", STATE)][::order])
    path = torch_file(tmp_path / "s.pth", content)
    assert same(load_state_dict(path), STATE)
    assert same(load_state_dict(path, key="params"), OTHER)


def test_a_key_of_ones_own(tmp_path):
    path = torch_file(tmp_path / "s.pth", {"generator": STATE, "params": OTHER, "step": 7})
    assert same(load_state_dict(path, key="generator"), STATE)
    with pytest.raises(CheckpointError, match=r"no state dict under 'step': found generator, par"):
        load_state_dict(path, key="step")
    with pytest.raises(CheckpointError, match=r"no state dict under 'critic'"):
        load_state_dict(path, key="critic")


@pytest.mark.parametrize("write", [torch_file, safetensors_file])
def test_the_module_prefix_is_taken_off_where_all_carry_it(tmp_path, write):
    prefixed = {f"module.{name}": value for name, value in STATE.items()}
    found = load_state_dict(write(tmp_path / "s", prefixed))
    assert set(found) == set(STATE)
    some = {**prefixed, "head": torch.ones(1)}
    assert set(load_state_dict(write(tmp_path / "t", some))) == set(some)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"params": STATE, "extra": c}])
def test_pickled_code_is_refused_and_does_not_run(tmp_path, legacy, wrap):
    mark = tmp_path / "mark"
    path = torch_file(tmp_path / "s.pth", wrap(RunsCode(mark)), legacy=legacy)
    with pytest.raises(
        CheckpointError, match=r"holds pickled code.*expected only tensors.*save its"
    ):
        load_state_dict(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the proof that the file would have run it
    assert mark.exists()


def test_a_whole_model_is_refused(tmp_path):
    path = torch_file(tmp_path / "s.pth", torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"pickled code or objects \(GLOBAL torch\.nn"):
        load_state_dict(path)


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "s.pkl"
    path.write_bytes(pickle.dumps(RunsCode(mark), protocol=2))
    with pytest.raises(CheckpointError, match=r"cannot be read|holds pickled code"):
        load_state_dict(path)
    assert not mark.exists()


@settings(max_examples=40)
@given(st.floats(0, 0.999), st.sampled_from(["zip", "legacy", "safetensors"]))
def test_a_truncated_file_is_refused_whatever_its_length(tmp_path_factory, share, kind):
    path = tmp_path_factory.mktemp("file") / "s"
    write = safetensors_file if kind == "safetensors" else torch_file
    write(path, {"weight": torch.ones(3), "bias": torch.ones(1)}, legacy=kind == "legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError):
        load_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a checkpoint, but a letter\n" * 9])
@pytest.mark.parametrize("name", ["s.pth", "s.safetensors"])
def test_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|not a whole safetensors file"):
        load_state_dict(tmp_path / name)


def test_a_header_that_lies_is_refused(tmp_path):
    (tmp_path / "s").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_state_dict(tmp_path / "s")


@pytest.mark.parametrize("read", [load_state_dict, load_tensors])
def test_a_missing_file_is_named(tmp_path, read):
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(CheckpointError, match=rf"file {path} is not there"):
            read(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.ones(1), "names to tensors, found Tensor"),
        ([torch.ones(1)], "found list"),
        ({}, "found nothing"),
        ({"params": {}}, "found nothing"),
        ({"weight": torch.ones(1), "epoch": 3}, r"found 'epoch' of type int.*key="),
        ({"net": {"weight": torch.ones(1)}}, r"found 'net' of type dict.*key="),
        ({0: torch.ones(1)}, "found 0 of type Tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, found):
    path = torch_file(tmp_path / "s.pth", content)
    with pytest.raises(CheckpointError, match=rf"is not a state dict: expected .*{found}"):
        load_state_dict(path)


def test_a_parameter_may_be_called_like_a_wrapping(tmp_path):
    state = {"params": torch.ones(2)}
    assert same(load_state_dict(torch_file(tmp_path / "s.pth", state)), state)


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failing_write_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "s"
    save_state_dict(path, STATE)
    before = path.read_bytes()

    def half(number):
        os.ftruncate(number, 9)
        raise OSError("No space left on device")

    def unmoved(self, target):
        raise OSError("No space left on device")

    if step == "write":
        monkeypatch.setattr(os, "fsync", half)
    else:
        monkeypatch.setattr(Path, "replace", unmoved)
    with pytest.raises(CheckpointError, match=rf"file {path} cannot be written \(No space left"):
        save_state_dict(path, OTHER)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # nothing half is left behind


def test_a_write_that_is_cut_short_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "s"
    save_state_dict(path, STATE)
    before = path.read_bytes()

    def stopped(number):
        os.ftruncate(number, 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_state_dict(path, OTHER)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written.*a folder that you can write to"):
        save_state_dict(tmp_path / "file" / "s", STATE)


def test_what_is_no_tensor_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"entry 'epoch' for file .* is an int"):
        save_state_dict(tmp_path / "s", {**STATE, "epoch": 3})
    assert not list(tmp_path.iterdir())


def test_tensors_that_share_memory_are_saved(tmp_path):
    model = tied()
    state = dict(model.state_dict())
    state["view"] = state["first.weight"][1]
    state["turned"] = state["first.weight"].T
    save_state_dict(tmp_path / "new" / "folder" / "s", state)
    found = load_state_dict(tmp_path / "new" / "folder" / "s")
    assert same({n: found[n] for n in state}, state)


def test_parameters_with_gradients_are_saved_as_values(tmp_path):
    save_state_dict(tmp_path / "s", dict(convnet().named_parameters()))
    assert not any(t.requires_grad for t in load_state_dict(tmp_path / "s").values())


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.floats(-1, 1))))
@settings(max_examples=10)
def test_metadata_comes_back(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("file") / "s"
    save_state_dict(path, {"w": torch.ones(1)}, metadata)
    assert load_tensors(path)[1] == metadata


def test_files_have_the_users_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    save_state_dict(tmp_path / "s", STATE)
    assert (tmp_path / "s").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_averaged_models_are_understood(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), tmp_path / "a.pt")
    assert load_state_dict(tmp_path / "a.pt").keys() == model.state_dict().keys()
