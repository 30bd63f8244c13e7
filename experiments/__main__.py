"""The command `trn-wse`: lists the experiments, runs one, completes them in a shell.

trn-wse                                the experiments, a question each
trn-wse kernel gemm m=2048             the same as python -m experiments.kernel gemm m=2048
trn-wse ring-scaling --help            hyphens stand for underscores
trn-wse completion bash                prints a script that completes all of this
trn-wse --version
"""

import ast
import importlib
import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

from experiments.shared import interruption, shadowing
from experiments.shared.errors import printing

COMMAND = "trn-wse"
COMPLETION = "completion"


def main() -> None:
    """The process of the command: does what its words ask."""
    interruption.begin()
    with interruption.ending(), printing():
        shadowing.check()
        do(sys.argv[1:])


def do(words: Sequence[str]) -> None:
    """Does what the words ask."""
    if not words or words[0] in ("-h", "--help"):
        show()
    elif words[0] in ("-V", "--version"):
        print(COMMAND, importlib.metadata.version(COMMAND))
    else:
        run(words[0].replace("-", "_"), words[1:])


def run(name: str, words: Sequence[str]) -> None:
    """Runs an experiment, or prints a completion script."""
    # Heavy imports only once it is known that something is to be run.
    from experiments.shared import cli

    if name in experiments():
        command = command_of(name)
        cli.run(name, command.options, command.main, words)
        return
    with cli.exit_codes():
        if name != COMPLETION:
            known = ", ".join([*experiments(), COMPLETION])
            raise cli.UsageError(f"no experiment {name!r}, must be one of {known}")
        from experiments.shared.completion import script

        print(script(COMMAND, words, experiments()))


def experiments() -> dict[str, str]:
    """Every package that can be run, and its question: the first line of its docstring."""
    found = {}
    here = pathlib.Path(__file__).parent
    for path in sorted(here.glob("*/__main__.py")):
        package = path.parent / "__init__.py"
        doc = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
        found[path.parent.name] = doc.splitlines()[0]
    return found


def command_of(name: str) -> ModuleType:
    """An experiment's module with `options` and `main`."""
    return importlib.import_module(f"experiments.{name}.__main__")


def show() -> None:
    """Prints the experiments."""
    found = experiments()
    width = max(map(len, found))
    print(f"python -m experiments.NAME, or {COMMAND} NAME, each with --help:")
    for name, question in found.items():
        print(f"  {name:<{width}} {question}")


if __name__ == "__main__":
    main()
