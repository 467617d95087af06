"""One HTML file that shows a comparison: tables, figures, what changed; nothing is requested."""

from paramattr.report.blocks import Change as Change
from paramattr.report.blocks import Modulation as Modulation
from paramattr.report.blocks import State as State
from paramattr.report.page import Page as Page
from paramattr.report.page import Section as Section
from paramattr.report.sections import Wording as Wording
from paramattr.report.writing import check_file as check_file
from paramattr.report.writing import write_report as write_report
