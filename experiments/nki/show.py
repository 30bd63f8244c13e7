"""The tables that `experiments.nki` prints of one kernel."""

from rich.console import Console

from emu.trainium.nki.report import Report, lines
from experiments.kernel import report as tables


def show(report: Report, console: Console) -> None:
    """Prints the report in words, then what each engine did and where the time went."""
    for line in lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in tables.details(report.timed):
        console.print(table)


__all__ = ["Console", "show"]
