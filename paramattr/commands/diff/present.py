"""Run a comparison and show it."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from paramattr.commands.diff.config import Config
from paramattr.commands.diff.examples import illustrate
from paramattr.commands.diff.experiment import plan, run
from paramattr.commands.diff.material import Material, gather
from paramattr.commands.diff.names import in_words_of_diff
from paramattr.commands.diff.report import as_json as rows_of
from paramattr.commands.diff.report import plan_rows, print_plan, print_result, save
from paramattr.commands.diff.result import Result, page_of
from paramattr.errors import ParamattrError, printable
from paramattr.report.page import check_installed
from paramattr.runtime.torchrun import is_first, is_joined

FILE = "report.html"


def present(config: Config, *, as_json: bool, dry_run: bool) -> None:
    """Gather, run, save and print.

    Args:
        config: the settings.
        as_json: print one JSON object in place of tables.
        dry_run: say what would be done, write nothing.

    Raises:
        ParamattrError: naming what is wrong, before the work wherever it can be.
    """
    console = Console(highlight=False, markup=False, soft_wrap=False)
    material = gather(config)
    if dry_run:
        with in_words_of_diff():
            planned = plan(config, material, memory=True)
        if as_json:
            print(json.dumps(plan_rows(config, planned), indent=1))
        else:
            print_plan(console, config, planned)
            for line in [] if planned.memory is None else planned.memory.lines():
                console.print(line)
        return
    with in_words_of_diff():
        result = run(config, material, show_progress=sys.stderr.isatty(), distributed=is_joined())
    said = []
    if is_first():
        said = [*save(config, result), *save_page(config, material, result)]
    if as_json:
        print(json.dumps(rows_of(config, result), indent=1))
    else:
        print_result(console, config, result)
    for line in said:
        print(f"paramattr: {printable(line)}", file=sys.stderr)


def save_page(config: Config, material: Material, result: Result) -> list[str]:
    """Write the report into the folder of results.

    Returns:
        What to tell the caller: how to get the report where it cannot be written.
    """
    if config.out is None:
        return []
    try:
        check_installed()
    except ParamattrError as error:
        return [f"{config.out / FILE} was not written: {error}; then call the same command again"]
    page = page_of(result, illustrate(material, result), base=config.base, tuned=config.tuned)
    page.save(config.out / FILE)
    return []
