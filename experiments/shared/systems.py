"""The `--system` of command lines: whose links join the chips, and how many chips it has."""

from collections.abc import Iterable

from emu.trainium.datasheets import (
    SYSTEMS,
    NeuronCoreSheet,
    System,
    on_system,
    systems_of,
)
from experiments.shared import cli
from experiments.shared.errors import UsageError


def word(system: System) -> str:
    """What a command line calls a system: `trn3-gen2-ultraserver`, `trn2.48xlarge`."""
    return system.name.lower().replace(" ", "-")


BY_WORD = {word(system): system for system in SYSTEMS}


def add_option(parser: cli.Parser, systems: Iterable[System], default: str) -> None:
    """Adds `--system`; `default` says what holds where it is not given."""
    words = [word(system) for system in systems]
    parser.add_argument(
        "--system",
        type=cli.one_of("--system", words),
        help=f"whose links join the chips: {', '.join(words)} ({default})",
    )


def joined(sheet: NeuronCoreSheet, name: str | None) -> NeuronCoreSheet:
    """The chip in the system that `--system` names, if it names one.

    Raises:
      UsageError: a system of other chips.
    """
    if name is None:
        return sheet
    system = BY_WORD[name]
    own_systems = systems_of(sheet, SYSTEMS)
    if system not in own_systems:
        own = [word(each) for each in own_systems]
        raise UsageError(
            f"--system is {name}, whose chips are not {sheet.name}; name one of {', '.join(own)}"
        )
    return on_system(sheet, system)


def check_chips(
    option: str, chips: int, system: System, others: Iterable[System]
) -> None:
    """That a system has so many chips.

    Raises:
      UsageError: it has fewer; names those of the others that have as many, or the largest.
    """
    if chips <= system.chips:
        return
    enough = [word(each) for each in others if each.chips >= chips]
    remedy = "no other system here has as many"
    if enough:
        remedy = f"as many has --system {' or '.join(enough)}"
    raise UsageError(
        f"{option} is {chips}, {system.name} has {system.chips} chips; {remedy}"
    )
