"""Folders that somebody else made, for `apply`, `diff` and `info`: links, devices, archives."""

import os
import shutil
import socket
import struct
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from paramattr import ParamattrError, load_state_dict, random_scores
from paramattr.commands.apply import Config, Result, run
from paramattr.commands.info import describe
from paramattr.errors import CheckpointError, warn
from paramattr.huggingface import read_pair
from tests import command_line
from tests.folders import bert, moved, saved, some, write_lines

SECRET = "the owner's alone"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("good")
    base = bert()
    tuned = moved(base)
    saved(base, place / "base")
    saved(tuned, place / "tuned")
    some(tuned, "attention_head", 1, -2).save(place / "heads.safetensors")
    return place


@pytest.fixture
def place(good, tmp_path) -> Path:
    copied = Path(shutil.copytree(good, tmp_path / "place"))
    (copied / "secret.txt").write_text(SECRET)
    (copied / "secret.txt").chmod(0o600)
    return copied


def applied(place: Path, folder: str = "tuned") -> Result:
    return run(
        Config(place / folder, place / "heads.safetensors", place / "out", 0, place / "base")
    )


def in_binary(place: Path) -> Path:
    """Put the tuned model's weights into a file of torch.save."""
    tuned = place / "tuned"
    state = load_state_dict(tuned / "model.safetensors")
    (tuned / "model.safetensors").unlink()
    torch.save(state, tuned / "pytorch_model.bin")
    return tuned / "pytorch_model.bin"


def deflated(file: Path) -> None:
    """Compress the records of an archive."""
    whole = file.with_suffix(".whole")
    file.replace(whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for record in given.infolist():
            made.writestr(record.filename, given.read(record))
    whole.unlink()


def refused_by_all(place: Path, match: str, folder: str = "tuned") -> None:
    for call in (
        lambda: applied(place, folder),
        lambda: read_pair(place / "base", place / folder),
        lambda: describe(place / folder),
    ):
        before = sorted(place.rglob("*"))
        with pytest.raises(CheckpointError, match=match):
            call()
        assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("README.md", "../secret.txt"),
        ("README.md", "/etc/passwd"),
        ("docs/deep.md", "../../secret.txt"),
        ("docs", "../base"),
        ("docs", "/"),
        ("vocab.txt", "/dev/zero"),
        ("notes.txt", "gone.txt"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_a_link_that_leads_out_of_a_folder_is_refused_by_name(place, name, target):
    link = place / "tuned" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    refused_by_all(place, rf"{name}.*link.*inside the folder.*cp -rL")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_a_model_is_read_from_lies_in_its_folder(place, name):
    file = place / "tuned" / name
    file.rename(place / name)
    file.symlink_to(place / name)
    refused_by_all(place, rf"{name}.*link.*inside the folder")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused_by_name(place, kind, monkeypatch):
    monkeypatch.chdir(place / "tuned")  # a socket's path must be short
    if kind == "pipe":
        os.mkfifo("vocab.txt")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("vocab.txt")
    refused_by_all(place, r"vocab\.txt.*neither a file nor a folder.*expected")


def test_links_inside_a_folder_are_followed_once_and_loops_are_left_out_by_name(place):
    tuned = place / "tuned"
    for name in ("a", "b"):
        (tuned / name).symlink_to(".")
    (tuned / "1_Pooling").mkdir()
    (tuned / "1_Pooling" / "up").symlink_to("..")
    (tuned / "1_Pooling" / "own.json").write_text("{}")
    (tuned / "copy.json").symlink_to("config.json")
    found = applied(place)
    assert found.notes == ("'1_Pooling/up', 'a', 'b' are links to folders: they are not copied.",)
    made = {str(path.relative_to(place / "out")) for path in (place / "out").rglob("*")}
    assert made == {path.name for path in tuned.iterdir()} - {"a", "b"} | {"1_Pooling/own.json"}
    assert not (place / "out" / "copy.json").is_symlink()
    assert (place / "out" / "copy.json").read_bytes() == (tuned / "config.json").read_bytes()
    read_pair(place / "base", tuned)
    assert describe(tuned)["weights"] == ["model.safetensors"]


def hub(place: Path) -> Path:
    """Lay a folder out as the cache of the Hugging Face hub does."""
    repository = place / "hub" / "models--me--tuned"
    snapshot = repository / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted((place / "tuned").iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def test_the_cache_of_the_hub_is_read_as_the_plain_folder_is(place):
    snapshot = hub(place)
    plain = read_pair(place / "base", place / "tuned").target.state_dict()
    cached = read_pair(place / "base", snapshot).target.state_dict()
    assert all(torch.equal(cached[name], value) for name, value in plain.items())
    assert describe(snapshot) == describe(place / "tuned")
    applied(place)
    blobs = {path: path.read_bytes() for path in (snapshot.parents[1] / "blobs").iterdir()}
    run(Config(snapshot, place / "heads.safetensors", place / "two", 0, place / "base"))
    for file in (place / "out").iterdir():
        assert (place / "two" / file.name).read_bytes() == file.read_bytes()
        assert not (place / "two" / file.name).is_symlink()
    assert all(path.read_bytes() == before for path, before in blobs.items())


def test_a_cache_leads_to_its_own_blobs_alone(place):
    snapshot = hub(place)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(place / "tuned" / "config.json")
    refused_by_all(place, r"config\.json.*link", str(snapshot))
    blobs = snapshot.parents[1] / "blobs"
    shutil.rmtree(snapshot)
    shutil.rmtree(blobs)
    snapshot.mkdir()
    blobs.symlink_to(place / "tuned")
    for file in (place / "tuned").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    refused_by_all(place, "link", str(snapshot))


def test_what_is_copied_has_the_permissions_of_an_ordinary_file(place):
    odd = place / "tuned" / "run.sh"
    odd.write_text("echo")
    odd.chmod(0o4777)
    (place / "tuned" / "model.safetensors").chmod(0o444)
    applied(place)
    (place / "plain").write_text("")
    usual = (place / "plain").stat().st_mode
    assert {path.stat().st_mode for path in (place / "out").iterdir()} == {usual}
    (place / "folder").mkdir()
    assert (place / "out").stat().st_mode == (place / "folder").stat().st_mode


def test_a_folder_that_lists_more_than_the_disk_holds_is_refused_before_it_is_copied(place):
    with (place / "tuned" / "notes.txt").open("wb") as file:
        file.truncate(2**43)
    with pytest.raises(CheckpointError, match=r"tuned lists \d+ bytes.*free.*expected"):
        applied(place)
    assert not list(place.glob("*out*"))


@pytest.mark.parametrize("form", ["tuned", "base"])
def test_a_compressed_archive_is_refused_by_every_reader(place, form):
    file = in_binary(place)
    deflated(file)
    said = r"pytorch_model\.bin.*compressed.*save it again"
    with pytest.raises(CheckpointError, match=said):
        load_state_dict(file)
    with pytest.raises(CheckpointError, match=said):
        describe(file)
    other = {"tuned": "base", "base": "tuned"}[form]
    with pytest.raises(CheckpointError, match=said):
        run(Config(place / form, place / "heads.safetensors", place / "out", 0, base=place / other))
    with pytest.raises(CheckpointError, match=said):
        read_pair(place / other, place / form)
    assert not list(place.glob("*out*"))


def test_records_that_compressing_does_not_shorten_are_refused_too(tmp_path):
    file = tmp_path / "state.pth"
    torch.save({"weight": torch.randn(999)}, file)
    deflated(file)
    with pytest.raises(CheckpointError, match="compressed"):
        load_state_dict(file)


def two_faced(file: Path) -> None:
    """Give an archive a second list of records, which readers find that trust sizes, not places."""
    with zipfile.ZipFile(file) as given, zipfile.ZipFile(file.with_suffix(".zip"), "w") as made:
        for record in given.infolist():
            made.writestr(record.filename, given.read(record))
    shown = file.with_suffix(".zip").read_bytes()
    deflated(file)
    whole = file.read_bytes()
    size, place = struct.unpack("<LL", whole[-10:-2])
    assert struct.unpack("<L", shown[-10:-6])[0] == size
    file.write_bytes(whole[: place + size] + shown[-22 - size : -22] + whole[-22:])


def test_an_archive_has_one_list_of_records(tmp_path):
    file = tmp_path / "state.pth"
    torch.save({"weight": torch.zeros(9)}, file)
    two_faced(file)
    with zipfile.ZipFile(file) as found:
        assert not any(record.compress_type for record in found.infolist())  # it looks harmless
    with pytest.raises(CheckpointError, match=r"state\.pth.*as torch\.save writes"):
        load_state_dict(file)
    torch.save({"weight": torch.zeros(9)}, file)
    with file.open("ab") as appended:
        appended.write(b"more")
    with pytest.raises(CheckpointError, match=r"state\.pth.*as torch\.save writes"):
        load_state_dict(file)


def test_a_tensor_that_is_stretched_is_refused_before_it_is_edited(place):
    file = in_binary(place)
    state = torch.load(file, weights_only=True)
    torch.save({**state, "more": torch.zeros(1).expand(10**6, 10**6)}, file)
    with pytest.raises(CheckpointError, match=r"'more' stretched to 10{12} entries"):
        applied(place)


def test_weights_are_the_same_files_for_every_reader(place):
    tuned = place / "tuned"
    (tuned / "training_args.bin").write_bytes(b"a trainer's")
    (tuned / "consolidated.safetensors").write_bytes(b"another form")
    assert describe(tuned)["weights"] == ["model.safetensors"]
    found = applied(place)
    assert found.notes == (
        "'consolidated.safetensors' hold the model unedited: they are not copied.",
    )
    read_pair(place / "base", tuned)
    (tuned / "model.safetensors").unlink()
    for call in (
        lambda: run(Config(tuned, place / "heads.safetensors", place / "two")),
        lambda: read_pair(place / "base", tuned),
    ):
        with pytest.raises(CheckpointError, match="holds no weights"):
            call()


def test_a_pipe_called_json_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.json")
    found = []
    waiting = threading.Thread(target=lambda: found.append(refusal(tmp_path)), daemon=True)
    waiting.start()
    waiting.join(5)
    assert "rows.json" in found[0]


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        describe(folder / "rows.json")
    return str(refused.value)


def test_json_is_not_read_without_end(tmp_path):
    with (tmp_path / "rows.json").open("wb") as file:
        file.truncate(2**35)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=r"rows\.json.*longer than \d+ bytes"):
        describe(tmp_path / "rows.json")
    assert time.monotonic() - started < 5


EVIL = "\x1b]0;pwned\x07\x1b[2J\nparamattr: all is well\u202e\x9b31m"
PAIR = ("base", "tuned", "--data")
APPLIED = ("apply", "tuned", "--selection")
ONE_NODE = ("--units", "layer", "--draws", "1", "--steps", "1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("diff", *PAIR, "evil.jsonl", "--out", "never"), ""),
        (("diff", *PAIR, "texts.jsonl", *ONE_NODE, "--out", "o\x1b[31m"), "lost"),
        (("info", "scores.safetensors"), ""),
        (("info", "state.pth"), ""),
        (("info", "none.pth"), ""),
        (("info", "rows.json"), "\\x1b[31m"),
        (("info", "coded"), ""),
        (("info", "no\x1b[31mfile"), ""),
        (("info", "state.pth", "--json"), ""),
        ((*APPLIED, "heads.safetensors", "--base", "base", "--out", "o\x1b[31mut"), ""),
        ((*APPLIED, "scores.safetensors"), ""),
    ],
)
def test_names_from_files_are_printed_without_control_characters(evil, words, expected):
    _, out, err = command_line.call(*words, folder=evil)
    said = out + err
    assert not [letter for letter in said if not letter.isprintable() and letter != "\n"]
    assert "\nparamattr: all is well" not in said
    assert expected in said


@pytest.fixture
def evil(place):
    """Files whose names, and the names in which, are what a terminal would obey."""
    model = torch.nn.Sequential()
    model.add_module(EVIL, torch.nn.Linear(2, 2))
    random_scores(model, reducer="layer").save(place / "scores.safetensors")
    torch.save({EVIL: torch.zeros(2)}, place / "state.pth")
    torch.save({EVIL: 3}, place / "none.pth")
    (place / "rows.json").write_text('{"\\u001b[31m": 1, "\\ud800": 2}')
    write_lines(place / "evil.jsonl", conditions=(EVIL, "x\x1b[2J"))
    write_lines(place / "texts.jsonl", conditions=("one", "two"))
    (place / "tuned" / "nested").mkdir()
    (place / "tuned" / f"x{EVIL[:9]}.onnx").write_text("")
    shutil.copytree(place / "tuned", place / "coded")
    config = place / "coded" / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"\\u001b[31m"'))
    return place


def test_a_message_holds_no_control_characters():
    assert str(ParamattrError("tensor \x1b[31m")) == "tensor \\x1b[31m"
    with pytest.warns(UserWarning, match=r"tensor \\x1b\[31m"):
        warn("tensor \x1b[31m")
