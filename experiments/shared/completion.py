"""Scripts that complete the command line in a shell, made by shtab of the parsers themselves."""

import argparse
import importlib
from collections.abc import Iterable, Sequence

import shtab

from experiments.shared import cli
from experiments.shared.errors import UsageError

SHELLS = ("bash", "zsh")


def script(command: str, words: Sequence[str], experiments: Iterable[str]) -> str:
    """The script for the shell that `words` name.

    Raises:
      UsageError: they name none.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        given = " ".join(words) or "nothing"
        raise UsageError(
            f"completion is of {given!r}, must be of one of {', '.join(SHELLS)}"
        )
    return shtab.complete(whole_parser(command, experiments), words[0])


def whole_parser(command: str, experiments: Iterable[str]) -> argparse.ArgumentParser:
    """All experiments as subcommands; it completes words, and parses none."""
    whole = argparse.ArgumentParser(prog=command)
    whole.add_argument("--version", action="store_true", help="the project's version")
    commands = whole.add_subparsers()
    for name in experiments:
        module = importlib.import_module(f"experiments.{name}.__main__")
        made = cli.parser(name, module.options)
        for action in made._actions:
            action.choices = _words(action)
        described = made.description
        commands.add_parser(
            name.replace("_", "-"),
            parents=[made],
            add_help=False,
            help=described,
            description=described,
        )
    shells = commands.add_parser("completion", help="prints a completion script")
    shells.add_argument("shell", choices=SHELLS)
    return whole


def _words(action: argparse.Action) -> Iterable[str] | None:
    """What an option or a word may be, where that is known."""
    if isinstance(action.type, cli.OneOf):
        return action.type.allowed
    if isinstance(action.type, cli.Word):
        return action.type.known
    return action.choices
