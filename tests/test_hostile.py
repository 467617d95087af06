"""Hostile files: bounded here, long by `make fuzz`.

Whatever a file holds, a call either reads it or raises one `ParamattrError`: no other error, no
file left behind.
"""

import json
import struct
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import FAIG, Scores, Selection, load_state_dict, random_scores, save_state_dict
from paramattr.commands.diff.material import LONGEST, MOST_CONDITIONS, read_texts
from paramattr.commands.info import describe
from paramattr.errors import CheckpointError, DataError, ParamattrError
from paramattr.files.reading import content, load_tensors
from tests.tiny import moved, seeded

FUZZ = settings(
    max_examples=max(10, settings().max_examples // 5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MODEL = seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
BASE = moved(MODEL)
BATCHES = [(torch.ones(1, 3) * n, torch.ones(1, 2)) for n in (1.0, 2.0, 3.0)]


def resumed(file: Path) -> Scores:
    return FAIG(MODEL, BASE).score(BATCHES, reducer="scalar", n_steps=1, checkpoint=file)


def pixels(file: Path) -> object:
    from blind_sr.data.images import read_image

    return read_image(file)


def write_picture(file: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 7), (1, 2, 3)).save(file)


def write_lines(file: Path) -> None:
    rows = [{"text": "word", "label": n, "condition": "ab"[n % 2]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


KINDS = {
    "state.safetensors": (lambda f: save_state_dict(f, MODEL.state_dict()), load_state_dict),
    "state.pth": (lambda f: torch.save(MODEL.state_dict(), f), load_state_dict),
    "scores.safetensors": (lambda f: random_scores(MODEL, reducer="scalar").save(f), Scores.load),
    "selection.safetensors": (
        lambda f: random_scores(MODEL, reducer="scalar").top(count=2).save(f),
        Selection.load,
    ),
    "info.safetensors": (lambda f: random_scores(MODEL, reducer="layer").save(f), describe),
    "progress.safetensors": (resumed, resumed),
    "rows.json": (lambda f: f.write_text(json.dumps({"rows": [1, 2]})), describe),
    "texts.jsonl": (write_lines, read_texts),
    "one.png": (write_picture, pixels),
    "one.jpg": (write_picture, pixels),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of one good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    for name, (write, _) in KINDS.items():
        write(folder / name)
    return {name: (folder / name).read_bytes() for name in KINDS}


def meets(read, file: Path) -> object:
    """Call a reader: what it gives, or its error; any other error than ours fails the test."""
    before = {path.name for path in file.parent.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read(file)
        except ParamattrError as error:
            found = error
    if isinstance(found, ParamattrError):
        assert 0 < len(str(found)) < 1500
    assert {path.name for path in file.parent.iterdir()} == before
    return found


def changed(data: st.DataObject, whole: bytes) -> bytes:
    """Cut, flip, repeat or overwrite some of a file's bytes."""
    found = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(found) - 1, 0)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "overwrite"])):
            case "flip" if found:
                found[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del found[place:]
            case "insert":
                found[place:place] = data.draw(st.binary(max_size=20))
            case "repeat":
                found[place:place] = found[place : place + 40]
            case "overwrite":
                found[place : place + 8] = struct.pack("<q", data.draw(st.integers(-9, 2**62)))
    return bytes(found)


@pytest.mark.parametrize("name", KINDS)
@FUZZ
@given(data=st.data())
def test_a_changed_file_is_read_or_refused(tmp_path_factory, good, name, data):
    file = tmp_path_factory.mktemp("changed") / name
    file.write_bytes(changed(data, good[name]))
    meets(KINDS[name][1], file)


@pytest.mark.parametrize("name", [name for name in KINDS if "safetensors" in name])
@FUZZ
@given(data=st.data())
def test_no_changed_bit_of_our_own_files_goes_unnoticed(tmp_path_factory, good, name, data):
    whole = bytearray(good[name])
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    file = tmp_path_factory.mktemp("flipped") / name
    file.write_bytes(whole)
    found = meets(KINDS[name][1], file)
    if not isinstance(found, CheckpointError):  # a bit that says nothing, such as a space's
        file.write_bytes(good[name])
        expected, _ = load_tensors(file)
        file.write_bytes(whole)
        tensors, _ = load_tensors(file)
        assert all(content(tensors[key]) == content(value) for key, value in expected.items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@pytest.mark.parametrize("name", [name for name in KINDS if "safetensors" in name])
@FUZZ
@given(data=st.data())
def test_what_we_keep_beside_tensors_may_be_anything(tmp_path_factory, good, name, data):
    file = tmp_path_factory.mktemp("metadata") / name
    file.write_bytes(good[name])
    tensors, about = load_tensors(file)
    if about:
        key = data.draw(st.sampled_from(sorted(about)))
        about[key] = data.draw(JSON)
    if tensors and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        kind = data.draw(st.sampled_from([torch.float64, torch.int32, torch.bool, torch.complex64]))
        tensors[key] = torch.full(shape, data.draw(st.integers(0, 1)) * 7, dtype=kind)
    save_state_dict(file, tensors, about)  # with a checksum that is right
    meets(KINDS[name][1], file)


@FUZZ
@given(lines=st.lists(JSON.map(json.dumps) | st.text(max_size=30), max_size=5))
def test_any_lines_are_texts_or_refused(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("lines") / "texts.jsonl"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    found = meets(read_texts, file)
    if not isinstance(found, ParamattrError):
        assert all(isinstance(text.text, str) and text.text.encode() for text in found)


@FUZZ
@given(row=st.fixed_dictionaries({}, optional=dict.fromkeys(("text", "label", "condition"), JSON)))
def test_any_row_is_a_text_or_refused(tmp_path_factory, row):
    file = tmp_path_factory.mktemp("row") / "texts.jsonl"
    file.write_text(json.dumps(row))
    meets(read_texts, file)


def test_a_line_may_be_long_but_not_too_long(tmp_path):
    file = tmp_path / "texts.jsonl"
    row = json.dumps({"text": "x" * (LONGEST - 12)})
    file.write_text(row)
    assert len(row) == LONGEST
    assert len(read_texts(file)[0].text) == LONGEST - 12
    file.write_text(row + " ")
    with pytest.raises(DataError, match=r"line 1 of .* is longer than 4194304 bytes: expected"):
        read_texts(file)


def test_conditions_are_not_as_many_as_texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    for count in (MOST_CONDITIONS, MOST_CONDITIONS + 1):
        rows = [json.dumps({"text": "a", "condition": f"c{n}"}) for n in range(count)]
        file.write_text("\n".join(rows))
        if count == MOST_CONDITIONS:
            assert len(read_texts(file)) == count
    with pytest.raises(DataError, match=r"has 65 conditions: expected at most 64"):
        read_texts(file)


def test_texts_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n')
    assert [text.text for text in read_texts(file)] == ["a"]
