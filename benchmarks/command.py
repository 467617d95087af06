"""Run one command of the study as a user would, and keep what it prints with its environment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import write_result


def keep(
    name: str, words: list[str], images: Path | None, hidden: list[str], *, resumed: bool = False
) -> dict[str, Any]:
    """Run `paramattr WORDS --images IMAGES HIDDEN --json` and write its result as NAME.json.

    Args:
        name: of the result's file.
        words: of the command line, as the result names them.
        images: folder of photographs, of which the result names the last part; None for those
            that are bundled.
        hidden: further words that change nothing in the result, such as where its files go.
        resumed: whether the run goes on with an earlier one, so that its seconds say little.
    """
    folder = [] if images is None else ["--images", str(images)]
    shown = [] if images is None else ["--images", images.name]
    started = time.perf_counter()
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("paramattr")), *words, *folder, *hidden, "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = round(time.perf_counter() - started, 1)
    result: dict[str, Any] = json.loads(ran.stdout)
    command = " ".join(["paramattr", *words, *shown, "--json"])
    content = {"seconds": seconds, "resumed": resumed, **result}
    print(f"{seconds} s, {write_result(name, command, content)}")
    return result
