"""Options that many experiments take: which published model, how much of which machine.

Each has one meaning, one range and one set of words here; an experiment says what is its default.
"""

from collections.abc import Callable

from emu.trainium import TRN3
from experiments.shared import cli, plans
from models.configurations import published_models

SEVERAL = "; may be given several times"
MOST_CONTEXT = 2**24


def add_model(parser: cli.Parser, default: str, *, several: bool = False) -> None:
    """Adds `--model`: the name of one of the published models.

    Args:
      parser: of the experiment.
      default: the model that is taken where none is named; with `several`, words for the models.
      several: may be given several times, and is then a list, empty where none is named.
    """
    _add(
        parser,
        "--model",
        cli.one_of("model", tuple(published_models())),
        f"one of those that `models` lists ({default})",
        default=default,
        several=several,
        metavar="NAME",
    )


def add_tokens(parser: cli.Parser, name: str, default: int, of: str) -> None:
    """Adds a number of tokens: `name` is as `--context`, `of` says what they are."""
    _add(
        parser,
        name,
        cli.whole_number(name.removeprefix("--"), 1, MOST_CONTEXT),
        f"{of} ({default})",
        default=default,
    )


def add_precision(parser: cli.Parser, default: str, of: str) -> None:
    """Adds `--dtype`, a plan of precision that decode has kernels for.

    Args:
      parser: of the experiment.
      default: the plan's words.
      of: says what is held so.
    """
    _add(
        parser,
        "--dtype",
        plans.plan_of,
        f"{of}: a dtype, a format such as mxfp4, or a plan as weights=mxfp8,cache=fp8 ({default})",
        default=default,
        metavar="PRECISION",
    )


def add_chips(parser: cli.Parser, default: str | int, *, several: bool = False) -> None:
    """Adds `--chips` of Trainium3, of each rack where there are several.

    Args:
      parser: of the experiment.
      default: how many; with `several`, words for the numbers.
      several: may be given several times, and is then a list, empty where none is given.
    """
    _add(
        parser,
        "--chips",
        cli.whole_number("chips", 1, 1024),
        f"of Trainium3, of each rack ({default})",
        default=default,
        several=several,
    )


def add_racks(parser: cli.Parser) -> None:
    """Adds `--racks`."""
    _add(
        parser,
        "--racks",
        cli.whole_number("racks", 1, 64),
        "that EFA joins (1)",
        default=1,
    )


def add_cores(parser: cli.Parser) -> None:
    """Adds `--cores` of a chip, all of them where none is said."""
    cores = int(TRN3.cores_per_chip.value)
    _add(
        parser,
        "--cores",
        cli.whole_number("cores", 1, cores),
        f"of each chip, which share its heads and weights ({cores})",
        default=cores,
    )


def add_wafers(parser: cli.Parser) -> None:
    """Adds `--wafers`; None where it is not given."""
    _add(
        parser,
        "--wafers",
        cli.whole_number("wafers", 1, 64),
        "that the model is cut over, between layers (the fewest that hold it)",
    )


def add_users(
    parser: cli.Parser, default: str | int = 1, *, several: bool = False
) -> None:
    """Adds `--users`.

    Args:
      parser: of the experiment.
      default: how many; with `several`, words for the numbers.
      several: may be given several times, and is then a list, empty where none is given.
    """
    _add(
        parser,
        "--users",
        cli.whole_number("users", 1, 2**24),
        f"whose caches stand in every layer's region ({default})",
        default=default,
        several=several,
    )


def _add(
    parser: cli.Parser,
    name: str,
    kind: Callable[[str], object],
    words: str,
    *,
    default: object = None,
    several: bool = False,
    metavar: str | None = None,
) -> None:
    if several:
        parser.add_argument(
            name,
            action="append",
            default=[],
            metavar=metavar,
            type=kind,
            help=words + SEVERAL,
        )
        return
    parser.add_argument(name, default=default, metavar=metavar, type=kind, help=words)
