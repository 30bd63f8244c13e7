"""What every experiment's command line shares: options, one-line errors, exit codes.

An experiment is a package with a `__main__.py` that has `options(parser)`, which adds what it
takes, and `main(args, output)`, which answers its question. `run` does the rest.
"""

import argparse
import contextlib
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from emu import EmulationError, progress
from emu.early_end import undo_all
from emu.given import told
from experiments.shared import interruption, numbers, shadowing
from experiments.shared.errors import BAD_INPUT, UsageError, complain, printing
from experiments.shared.output import Output
from models.errors import ModelError

STOPPED = 128 + signal.SIGINT


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


Options = Callable[[Parser], None]
Main = Callable[[argparse.Namespace, Output], None]


def run(
    experiment: str, options: Options, main: Main, words: Sequence[str] | None = None
) -> None:
    """Runs an experiment: bad input exits 2 with one line, Ctrl-C exits 130.

    A process of the experiment's own ends here.

    Args:
      experiment: its name.
      options: adds its options to a parser.
      main: answers its question.
      words: of the command line, by default the process' own.
    """
    with interruption.ending() as watch, exit_codes():
        shadowing.check()
        words = sys.argv[1:] if words is None else words
        check_text(words)
        args = parser(experiment, options).parse_intermixed_args(words)
        output = Output(args.out, args.json)
        if watch is not None:
            watch.report, watch.undo = output.interrupted, undo_all
        # Experiments show progress of their own, on the same terminal.
        with progress.shown(False), _stdout_kept(args.json):
            main(args, output)
        output.finish()


def check_text(words: Sequence[str]) -> None:
    """That every word can be printed and written: bytes that are no UTF-8 cannot.

    Raises:
      UsageError: one cannot.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{told(word)}: character {error.start + 1} is no text ({error.reason}); give "
                "UTF-8, and rename a file whose name is none"
            ) from None


def parser(experiment: str, options: Options) -> Parser:
    """An experiment's parser, which tells the question that its package asks."""
    package = f"experiments.{experiment}"
    question = (importlib.import_module(package).__doc__ or "").splitlines()[0]
    made = Parser(prog=f"python -m {package}", description=question)
    options(made)
    made.add_argument("--out", metavar="DIR", help="folder for figures and pictures")
    made.add_argument(
        "--json",
        action="store_true",
        help="prints the figures as one JSON document; tables go to stderr",
    )
    return made


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors into one line on stderr and an exit code."""
    try:
        with printing():
            yield
    except (UsageError, ModelError, EmulationError) as error:
        complain(str(error))
        raise SystemExit(BAD_INPUT) from None
    except KeyboardInterrupt:
        # Of a process that is not watched, or raised by a user's code.
        print(f"interrupted: {interruption.NOTHING}", file=sys.stderr)
        raise SystemExit(STOPPED) from None


def _stdout_kept(for_figures: bool) -> contextlib.AbstractContextManager[object]:
    """Inside, whatever is printed goes to stderr if stdout is kept for figures."""
    if for_figures:
        return contextlib.redirect_stdout(sys.stderr)
    return contextlib.nullcontext()


# --- types of options ---


@dataclasses.dataclass(frozen=True)
class OneOf:
    """An argparse type: one of several words, else a one-line `UsageError`.

    Attributes:
      name: of the option, as in `--device`, or of what a word names, as in `part`.
      allowed: words.
    """

    name: str
    allowed: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.allowed:
            is_option = self.name.startswith("--")
            wrong = (
                f"{self.name} is {text!r}" if is_option else f"no {self.name} {text!r}"
            )
            raise UsageError(f"{wrong}, must be one of {', '.join(self.allowed)}")
        return text


def one_of(name: str, allowed: Iterable[str]) -> OneOf:
    """See `OneOf`."""
    return OneOf(name, tuple(allowed))


@dataclasses.dataclass(frozen=True)
class Word:
    """An argparse type: any word; shells complete those that are known."""

    known: tuple[str, ...]

    def __call__(self, text: str) -> str:
        return text


def whole_number(
    name: str, least: int, most: int | None = None, remedy: str = ""
) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`, else a one-line `UsageError`.

    Args:
      name: of the option, without its hyphens.
      least, most: that are allowed.
      remedy: what to do about one that is too large.
    """

    def parse(text: str) -> int:
        try:
            return numbers.whole(f"--{name}", text, least, most, remedy)
        except ValueError as error:
            raise UsageError(str(error)) from None

    return parse
