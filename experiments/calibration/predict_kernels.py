"""Measured kernels through the clock, in both readings."""

import pathlib
from collections.abc import Callable, Sequence

from emu.errors import EmulationError, OutOfMemory
from emu.trainium.nki import load
from emu.trainium.nki.report import COMPILED, Report
from emu.trainium.nki.time import nki_time
from experiments.calibration.kernels import Measured, Predicted
from experiments.calibration.sources import NotFound, find
from kernels import user_file


def predict_all(
    rows: Sequence[Measured], folder: pathlib.Path, tell: Callable[[str], object]
) -> list[Predicted]:
    """Predicts every row; one that cannot be says why.

    Args:
      rows: what was measured.
      folder: with the sources.
      tell: is called with what is being done.
    """
    found: list[Predicted] = []
    for number, row in enumerate(rows, 1):
        tell(f"{number} of {len(rows)}: {row.id}")
        try:
            found.append(predict(row, folder))
        except (NotFound, EmulationError) as error:
            found.append(Predicted(row, why=str(error)))
    return found


def predict(row: Measured, folder: pathlib.Path) -> Predicted:
    """Both readings of a kernel, each under the three bands.

    Raises:
      NotFound: the source is not there.
      EmulationError: it cannot be run on this machine.
    """
    source = find(row, folder)
    reference = user_file.reference(str(source.path))
    assert reference is not None  # it ends in .py
    function = getattr(source.kernel, "func", source.kernel)
    with user_file.errors_in_one_line(reference), load.present(function):
        report = nki_time(
            source.kernel,
            source.arguments,
            row.device,
            keywords=source.keywords,
            reading=COMPILED,
            grid=source.grid,
            api=source.api,
            title=row.id,
        )
        literal = report.other
        assert literal is not None  # a report of a kernel has both
        try:
            literal_ms = _ms(literal)
        except OutOfMemory:
            literal_ms = {}  # as written it does not fit, which no compiler would leave so
        return Predicted(
            row,
            _ms(report),
            literal_ms,
            report.hbm_read_bytes / 1e6,
            report.hbm_write_bytes / 1e6,
        )


def _ms(report: Report) -> dict[str, float]:
    return {band: us / 1e3 for band, us in report.latency_us.items()}


__all__ = ["predict", "predict_all"]
