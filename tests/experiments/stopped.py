"""An experiment that stops in the midst, to see what it tells of what was found so far."""

import importlib

import pytest

from experiments.shared import cli
from experiments.shared.output import Output


class Stop(Exception):
    """Raised by what a test puts in the place of the experiment's work."""


def stopped(experiment: str, *words: str) -> Output:
    """The output of an experiment that is stopped by a `Stop`; `interrupted` then tells."""
    made = importlib.import_module(f"experiments.{experiment}.__main__")
    args = cli.parser(experiment, made.options).parse_args(words)
    output = Output(args.out, args.json)
    with pytest.raises(Stop):
        made.main(args, output)
    return output
