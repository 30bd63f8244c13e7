"""The command line of `experiments.tune`: `experiments.kernel tune`, by its own name."""

import argparse

from experiments.kernel import __main__ as kernel
from experiments.shared import cli
from experiments.shared.output import Output

options = kernel.options


def main(args: argparse.Namespace, output: Output) -> None:
    """Finds the fastest sizes of the kernel that the words name."""
    args.words = [kernel.TUNE, *args.words]
    kernel.main(args, output)


if __name__ == "__main__":
    cli.run("tune", options, main)
