"""Attacks on photographs."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from benchmarks.hostile.attack import (
    Attack,
    Change,
    cut,
    empty,
    flipped,
    folder,
    holding,
    looped,
    other_magic,
    removed,
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, before: bytes = b"") -> Change:
    """Write a PNG of zeros, with a chunk before its pixels."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]

    def change(path: Path) -> None:
        row = bytes(1 + width * channels * depth // 8)
        packer, data = zlib.compressobj(9), b""
        for _ in range(height):
            data += packer.compress(row)
        data += packer.flush()
        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + _chunk(b"IHDR", head)
            + before
            + _chunk(b"IDAT", data)
            + _chunk(b"IEND", b"")
        )

    return change


def claims(width: int, height: int) -> Change:
    """Write a PNG that claims a size, and holds nothing."""

    def change(path: Path) -> None:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b""))
        )

    return change


def jpeg(width: int, height: int) -> Change:
    """Write a grey JPEG."""

    def change(path: Path) -> None:
        from PIL import Image

        Image.new("L", (width, height)).save(path, "JPEG")

    return change


def postscript(path: Path) -> None:
    """Write PostScript, which an interpreter would run, under the name of a picture."""
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n%%EOF\n")


_TEXT = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 * 2**20)))
CHANGES: dict[str, Change] = {
    "zero bytes": empty,
    "cut at two thirds": cut,
    "other magic": other_magic,
    "a bit of the header flipped": flipped(0.0002),
    "a bit of the pixels flipped": flipped(0.5),
    "a link to itself": looped,
    "a folder": folder,
    "missing": removed,
    "text": holding("no picture\n" * 99),
    "PostScript": postscript,
    "a PNG that claims 2^31 pixels a side": claims(2**31 - 1, 2**31 - 1),
    "a PNG that claims 13,000 x 13,000": claims(13_000, 13_000),
    "a PNG of no pixel": claims(0, 0),
    "16 bits, grey": png(200, 200, 16, 0),
}
IMAGE, FILE = "read_image", "photographs/one.png"
ATTACKS = [
    *(Attack(IMAGE, FILE, name, change) for name, change in CHANGES.items()),
    Attack(IMAGE, FILE, "a PNG bomb of 400 megapixels", png(20_000, 20_000)),
    Attack(IMAGE, FILE, "a PNG of 100 megapixels", png(10_000, 10_000)),
    Attack(IMAGE, FILE, "a PNG with 200 MiB of text", png(160, 160, before=_TEXT)),
    Attack(IMAGE, FILE, "a JPEG of 100 megapixels", jpeg(10_000, 10_000)),
    Attack(IMAGE, FILE, "a PNG of one pixel", png(1, 1), outcome="read"),
    *(
        Attack("load_photographs", FILE, name, CHANGES[name])
        for name in ("zero bytes", "a link to itself", "a folder", "cut at two thirds")
    ),
    Attack("load_photographs", FILE, "a PNG of one pixel", png(1, 1)),
    Attack("paramattr blindsr mask", FILE, "a PNG of one pixel", png(1, 1)),
    Attack("paramattr blindsr mask", FILE, "a PNG of 100 megapixels", png(10_000, 10_000)),
    Attack("paramattr blindsr mask", FILE, "cut at two thirds", cut),
    Attack("paramattr blindsr restore", FILE, "a PNG of one pixel", png(1, 1)),
    Attack("paramattr blindsr restore", FILE, "a PNG of 100 megapixels", png(10_000, 10_000)),
    Attack("paramattr blindsr restore", FILE, "cut at two thirds", cut),
]
