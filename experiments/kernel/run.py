"""A kernel of the catalogue, or of a user's, built with its sizes and timed on one machine."""

import dataclasses
from typing import Any

from emu.trainium.datasheets.sheet import NeuronCoreSheet
from emu.trainium.timed import Timed, check_arguments
from kernels.trainium.catalogue import Entry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Timed):
    """One kernel with its sizes, on one machine.

    Attributes:
      entry: of the catalogue.
      given: sizes and parameters that are not the defaults.
    """

    entry: Entry
    given: dict[str, Any]


def title(entry: Entry, given: dict[str, Any]) -> str:
    """A kernel with every size, and the parameters that were given."""
    chosen = {**entry.sizes, **given}
    return " ".join([entry.name, *(f"{key}={value}" for key, value in chosen.items())])


def built(entry: Entry, given: dict[str, Any], sheet: NeuronCoreSheet) -> Run:
    """Builds a kernel and checks that it fits; figures are computed when asked for.

    Raises:
      EmulationError: the machine cannot run it, or it does not fit.
      ValueError: sizes that the kernel does not take.
    """
    program, arguments = entry.build(**given)
    check_arguments(arguments, sheet)
    sizes = {key: value for key, value in given.items() if key in entry.sizes}
    run = Run(
        title=title(entry, given),
        sheet=sheet,
        program=program,
        arguments=arguments,
        useful_flops=entry.useful_flops(**sizes) or None,
        entry=entry,
        given=dict(given),
    )
    _ = run.peak_bytes  # or it does not fit
    return run
