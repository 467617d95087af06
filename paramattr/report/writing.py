"""`write_report`: from what was found to one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from paramattr.errors import ParamattrError, an
from paramattr.faithfulness.comparison import CONTROL, Comparison
from paramattr.report import sections
from paramattr.report.blocks import Change, Modulation
from paramattr.report.page import Page, Section, check_installed
from paramattr.report.sections import Wording
from paramattr.scoring.profile import PathProfile
from paramattr.units.scores import Scores
from paramattr.units.selection import Selection


@runtime_checkable
class Reported(Protocol):
    """What knows its own report, such as the result of `paramattr diff`."""

    def page(self) -> Page:
        """Give the report."""
        ...


def write_report(
    found: Scores | Mapping[str, Scores] | Comparison | Reported,
    path: str | Path,
    *,
    title: str = "",
    profile: PathProfile | Mapping[str, PathProfile] | None = None,
    changes: Sequence[Change] = (),
    modulations: Sequence[Modulation] = (),
    wording: Wording | None = None,
    fraction: float = 0.01,
    notes: Sequence[str] = (),
) -> Path:
    """Write one HTML file that shows what was found. It asks nothing of the network.

    Args:
        found: scores; scores by condition; a comparison of `paramattr.compare`; or the result of
            `paramattr.commands.diff.experiment.run`, whose own page takes no other argument.
        path: the file, such as `report.html`.
        title: of the page.
        profile: of `FAIG.path_profile`; or of several conditions, by their names.
        changes: samples before and after an edit.
        modulations: measures against the strength of the units found.
        wording: what methods, functions, units and measures are called.
        fraction: of the units that are drawn in the network and spoken of, above 0 and up to 1; of
            a comparison the nearest that was measured.
        notes: what else a reader has to know.

    Returns:
        The file.

    Raises:
        ParamattrError: if plotly or jinja2 is not installed, the file cannot be written, or there
            is no such report.
    """
    if isinstance(found, Reported) and not isinstance(found, Scores | Comparison | Mapping):
        return found.page().save(path)
    profiles = {"objective": profile} if isinstance(profile, PathProfile) else dict(profile or {})
    words = wording or Wording()
    if isinstance(found, Comparison):
        said, own = _of_comparison(found, fraction, words)
        heading = "Which ranking finds the units?"
    else:
        said, own = _of_scores(_by_name(found), fraction, words)
        heading = "Which parameters carry the change?"
    page = Page(
        title or heading,
        [
            sections.summary_section(
                [*said, *(sections.of_profiles(profiles) if profiles else [])]
            ),
            *([sections.profile_section(profiles, words)] if profiles else []),
            *own,
            *sections.change_sections(changes, modulations, words),
            *sections.note_sections(notes),
        ],
    )
    return page.save(path)


def check_file(path: str | Path) -> None:
    """Refuse what would fail when a report is written, before long work.

    Raises:
        ParamattrError: if plotly or jinja2 is not installed, or the file's place is a folder.
    """
    check_installed()
    if Path(path).is_dir():
        raise ParamattrError(f"{path} is a folder: expected a file, such as {path}/report.html")


def _of_scores(
    rankings: Mapping[str, Scores], fraction: float, words: Wording
) -> tuple[list[str], list[Section]]:
    shown = {words.label(name): scores for name, scores in rankings.items()}
    selections = {name: scores.top(fraction=fraction, warn=False) for name, scores in shown.items()}
    layers = sections.layer_table(
        {name or "score": scores.by_layer() for name, scores in shown.items()},
        "Summed by layer",
        "A unit that spans layers counts once, under its group.",
    )
    where = [
        _with_table(_network(own, words), layers if number == 0 else None)
        for number, own in enumerate(_of_one_index(selections))
    ]
    return sections.of_scores(shown, fraction, words), [
        *where,
        sections.units_section(shown, words),
    ]


def _of_comparison(
    comparison: Comparison, fraction: float, words: Wording
) -> tuple[list[str], list[Section]]:
    method = next(iter(comparison.rankings))
    first = {
        words.label(function): several[0]
        for function, several in comparison.rankings[method].items()
    }
    taken = sections.nearest(comparison.fractions, fraction)
    selections = {name: scores.top(fraction=taken, warn=False) for name, scores in first.items()}
    own = [sections.curve_section(comparison, words)]
    if method != CONTROL:
        own += [_network(selections, words), sections.units_section(first, words)]
    return sections.of_comparison(comparison, fraction, words), own


def _network(selections: Mapping[str, Selection], words: Wording) -> Section:
    return sections.network_section(
        {name or words.units: selection for name, selection in selections.items()}, words
    )


def _with_table(section: Section, table: Any) -> Section:
    blocks = [*section.blocks, *([table] if table is not None else [])]
    return Section(section.title, blocks, section.lead)


def _of_one_index(selections: Mapping[str, Selection]) -> list[dict[str, Selection]]:
    groups: list[dict[str, Selection]] = []
    for name, selection in selections.items():
        for group in groups:
            if next(iter(group.values())).index == selection.index:
                group[name] = selection
                break
        else:
            groups.append({name: selection})
    return groups


def _by_name(found: Any) -> dict[str, Scores]:
    named = {"": found} if isinstance(found, Scores) else found
    if (
        isinstance(named, Mapping)
        and named
        and all(isinstance(one, Scores) for one in named.values())
    ):
        return {str(name): scores for name, scores in named.items()}
    raise ParamattrError(
        f"{an(type(found))} has no report: expected Scores, a mapping of names to Scores, a "
        "Comparison, or the result of paramattr diff"
    )
