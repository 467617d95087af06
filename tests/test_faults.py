"""Full disks, devices without memory, loaders that fail: what is said, and what is left."""

import errno
import gc
import os
import re
import stat
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from paramattr import FAIG, Scores, random_scores
from paramattr.errors import CheckpointError, DataError, ParamattrError
from paramattr.runtime.compute import in_parts, is_out_of_memory
from tests.tiny import convnet, inputs_for, moved, seeded

X = torch.cat([inputs_for(convnet), inputs_for(convnet) * 0.5])
Y = seeded(lambda: torch.randn(len(X), 2))


class Cramped(nn.Module):
    """A model that has room for a few samples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room = nn.Linear(3, 2), room
        self.seen: list[int] = []

    def forward(self, x):
        rows = x.shape[0]
        if torch._C._functorch.is_batchedtensor(x):
            rows *= torch._C._functorch.get_unwrapped(x).shape[0]
        self.seen.append(rows)
        if rows > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return self.inner(x).tanh()


SAMPLES = seeded(lambda: torch.randn(7, 3))
TARGETS = seeded(lambda: torch.randn(7, 2))


def cramped(room: int) -> FAIG:
    model = seeded(lambda: Cramped(room))
    return FAIG(model, moved(model))


@pytest.mark.parametrize("room", [1, 2, 3])
def test_where_memory_runs_out_fewer_samples_go_through_at_once(room):
    whole, narrow = cramped(99), cramped(room)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, delta = narrow.attribute(SAMPLES, TARGETS, n_steps=3, return_convergence_delta=True)
    said = [str(warning.message) for warning in caught]
    assert re.search(r"memory with 7 samples at once \(CUDA out of.*GiB\.\): at most 3", said[0])
    assert len(said) == 1 + (room < 3)
    expected, right = whole.attribute(SAMPLES, TARGETS, n_steps=3, return_convergence_delta=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(delta, right, atol=1e-5, rtol=1e-5)
    assert max(narrow.model.seen[-4:]) <= room  # what fits is remembered


@pytest.mark.parametrize("room", [1, 3])
def test_samples_that_are_differentiated_together_are_halved_too(room):
    options = {"reducer": "scalar", "n_steps": 2, "internal_batch_size": 4}
    expected = cramped(99).score([(SAMPLES, TARGETS)], **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cramped(room).score([(SAMPLES, TARGETS)], **options)
    assert "ran out of memory with 4 samples at once" in str(caught[0].message)
    torch.testing.assert_close(found.values, expected.values)
    assert found.samples == 7


def test_a_device_without_room_for_one_sample_is_named():
    with (
        pytest.warns(UserWarning, match="ran out of memory"),
        pytest.raises(ParamattrError, match=r"no room for one sample \(CUDA out.*expected.*dtype"),
    ):
        cramped(0).attribute(SAMPLES, TARGETS)


def test_any_other_error_passes():
    with pytest.raises(ZeroDivisionError):
        list(in_parts(Rows(4), 4, lambda rows: 1 / 0, cramped(1)))


class Rows:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, size: int) -> "Rows":
        return Rows(min(size, self.count - start))


def test_a_part_is_released_before_the_next_one_is_made():
    class Result:
        pass

    kept: list[weakref.ref] = []

    def work(rows: Rows) -> Result:
        gc.collect()
        assert not any(one() for one in kept)
        made = Result()
        kept.append(weakref.ref(made))
        return made

    for result in in_parts(Rows(3), 1, work, cramped(1)):
        del result
    assert len(kept) == 3


def test_the_machine_without_memory_counts_too():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)


class Broken(Dataset):
    """Ten samples, of which one cannot be read."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int):
        if number == self.bad:
            raise OSError(f"picture {number} is torn\nreally")
        return SAMPLES[number % 7], TARGETS[number % 7]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("call", ["score", "path_profile"])
def test_a_loader_that_fails_names_the_sample(workers, call):
    faig, loader = cramped(99), DataLoader(Broken(5), batch_size=3, num_workers=workers)
    options = {"reducer": "layer"} if call == "score" else {"n_points": 3}
    with pytest.raises(DataError, match=r"failed at sample 5 \(OSError: picture 5 is torn\)") as e:
        getattr(faig, call)(loader, **options)
    assert isinstance(e.value.__cause__, OSError)


def test_a_shuffled_loader_names_the_batch_and_what_is_no_loader_raises_its_own():
    loader = DataLoader(Broken(5), batch_size=3, shuffle=True)
    with pytest.raises(DataError, match=r"failed at batch \d of 'red' \(OSError: picture 5"):
        cramped(99).score({"red": loader}, reducer="layer")

    def generator():
        yield SAMPLES, TARGETS
        raise ZeroDivisionError("all is lost")

    with pytest.raises(ZeroDivisionError, match="all is lost"):
        cramped(99).score(generator(), reducer="layer")


@pytest.fixture
def full(monkeypatch):
    """A disk that has room for a few bytes of a file, from the third file on."""
    sync, count = os.fsync, [0]

    def limited(number):
        count[0] += stat.S_ISREG(os.fstat(number).st_mode)
        if count[0] < 3:
            return sync(number)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", limited)
    return count


def test_a_full_disk_leaves_the_progress_so_far_and_the_run_resumes(tmp_path, full, monkeypatch):
    batches = [(SAMPLES[n : n + 1], TARGETS[n : n + 1]) for n in range(7)]
    options = {"reducer": "scalar", "n_steps": 2}
    file = tmp_path / "progress.safetensors"
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space left.*with room"):
        cramped(9).score(batches, checkpoint=file, **options)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    monkeypatch.undo()
    resumed = cramped(9).score(batches, checkpoint=file, **options)
    assert torch.equal(resumed.values, cramped(9).score(batches, **options).values)


def test_a_folder_that_cannot_be_written_to_shows_before_the_work(tmp_path, monkeypatch):
    def refused(path, flags, *others, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "open", refused)
    faig = cramped(9)
    faig.model.seen.clear()
    with pytest.raises(CheckpointError, match=r"Read-only file system.*choose a folder"):
        faig.score([(SAMPLES, TARGETS)], reducer="layer", checkpoint=tmp_path / "p")
    assert not faig.model.seen
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_of_our_own_files_is_found(tmp_path):
    file = tmp_path / "scores.safetensors"
    random_scores(convnet(), reducer="layer").save(file)
    whole = file.read_bytes()
    [checksum] = re.finditer(
        rb"crc32 of all else", whole
    )  # without this word there is none to check
    for place in {*range(8, len(whole), 37)} - {*range(*checksum.span())}:
        broken = bytearray(whole)
        broken[place] ^= 4
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"scores\.safetensors"):
            Scores.load(file)
    file.write_bytes(whole)
    assert len(Scores.load(file))
