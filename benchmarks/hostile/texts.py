"""Attacks on files of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.hostile.attack import Attack, Change, cut, empty, folder, holding, looped, removed

GOOD = b'{"text": "word1 word2", "label": 1}\n'
MANY = 20_000
HUGE = 16 * 2**20


def line(text: str | bytes) -> Change:
    """Append one line."""
    added = text.encode() if isinstance(text, str) else text
    return lambda path: path.write_bytes(path.read_bytes() + added + b"\n")


def recoded(encoding: str) -> Change:
    """Write it in another encoding."""
    return lambda path: path.write_bytes(
        (path.read_text() + '{"text": "Grüße"}\n').encode(encoding)
    )


def huge_line(path: Path) -> None:
    """Append a line of 16 MiB."""
    with path.open("ab") as file:
        file.write(b'{"text": "')
        for _ in range(HUGE // 2**20):
            file.write(b"word1 " * (2**20 // 6))
        file.write(b'"}\n')


def unbroken(path: Path) -> None:
    """Write 16 MiB without the end of a line."""
    path.write_bytes(b"x" * HUGE)


def as_long(path: Path) -> None:
    """Write as many bytes in short lines."""
    path.write_bytes(GOOD * (HUGE // len(GOOD)))


def conditions(path: Path) -> None:
    """Give each line a condition of its own."""
    rows = (json.dumps({"text": "word1", "condition": f"c{n}"}) for n in range(MANY))
    path.write_text("\n".join(rows))


def lines_as_many(path: Path) -> None:
    """Write as many lines of one condition."""
    path.write_bytes(GOOD * MANY)


CHANGES: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "a link to itself": looped,
    "a folder": folder,
    "missing": removed,
    "a broken line": line('{"text": "word1'),
    "a list": line('["text"]'),
    "a number": line("7"),
    "text that is a number": line('{"text": 7}'),
    "text that is empty": line('{"text": ""}'),
    "half a surrogate": line('{"text": "\\ud800"}'),
    "label that is a list": line('{"text": "a", "label": [1]}'),
    "label that is NaN": line('{"text": "a", "label": NaN}'),
    "label of 5,000 digits": line('{"text": "a", "label": ' + "9" * 5000 + "}"),
    "nested 50,000 deep": line("[" * 50_000),
    "nested 50,000 deep in an object": line('{"text": "a", "x": ' + "[" * 50_000 + "}"),
    "zeros": holding(bytes(1000)),
    "UTF-16": recoded("utf-16"),
    "Latin-1": recoded("latin-1"),
    "no encoding": line(b'{"text": "\xff\xfe\x80"}'),
    "a condition in some lines": line('{"text": "a", "condition": "b"}'),
    "a condition that is a number": line('{"text": "a", "condition": 3}'),
}
CALL, FILE = "read_texts", "texts.jsonl"
ATTACKS = [
    *(Attack(CALL, FILE, name, change) for name, change in CHANGES.items()),
    Attack(CALL, FILE, "a line of 16 MiB", huge_line, as_long),
    Attack(CALL, FILE, "16 MiB without a line's end", unbroken, as_long),
    Attack(CALL, FILE, "20,000 conditions", conditions, lines_as_many),
    Attack(
        CALL,
        FILE,
        "a byte-order mark",
        lambda p: p.write_bytes(b"\xef\xbb\xbf" + p.read_bytes()),
        outcome="read",
    ),
    *(
        Attack("paramattr diff", FILE, name, CHANGES[name])
        for name in ("a broken line", "half a surrogate", "UTF-16", "label of 5,000 digits")
    ),
    Attack(
        "paramattr diff", FILE, "label that no class has", line('{"text": "word1", "label": 99}')
    ),
    Attack(
        "paramattr diff",
        FILE,
        "label of 400 digits",
        line('{"text": "word1", "label": ' + "9" * 400 + "}"),
    ),
    Attack("paramattr diff", FILE, "a line of 16 MiB", huge_line),
]
