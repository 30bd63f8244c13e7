"""Values of the catalogue's variants, in a second process while this one reads the clock.

Both take Python's own time, minutes over the whole catalogue. The second process is asked for one
variant after another, the first of the list first; whoever needs values takes those that it has not
begun back, the last first, and computes them here:

    this process    clocks of a, b, c, d        values of d   c
    the second      values of a    of b                           (begun by then: waited for)

`python -m experiments.variants.values` is that process: a name a line in, its errors a line out.
"""

import collections
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from emu.early_end import child_process
from experiments.variants.measure import Errors, errors
from experiments.variants.request import asked

MANY = 4  # a process takes seconds to begin: for fewer variants it is not worth it


class Beside:
    """Values that are being computed beside.

    Attributes:
      left: names that nobody has begun.
      found: errors by name.
    """

    def __init__(self, names: Sequence[str]):
        self.left = collections.deque(names)
        self.found: dict[str, Errors] = {}
        self._thread: threading.Thread | None = None

    def begin(self, process: "subprocess.Popen[str]") -> None:
        """Has a process asked for all."""
        self._thread = threading.Thread(target=self._ask, args=(process,), daemon=True)
        self._thread.start()

    def _ask(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None and process.stdout is not None
        # A process that ends, by whatever, leaves its names to those who want them.
        with contextlib.suppress(IndexError, OSError, ValueError):
            while True:
                name = self.left.popleft()
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
                self.found[name] = Errors(**json.loads(process.stdout.readline()))

    def take(self, name: str) -> Errors | None:
        """The errors of a variant, waited for if they are begun; None: they are the caller's."""
        with contextlib.suppress(ValueError):
            self.left.remove(name)
            return None
        while name not in self.found:
            if self._thread is None or not self._thread.is_alive():
                return self.found.get(name)
            self._thread.join(0.05)
        return self.found[name]


@contextlib.contextmanager
def beside(names: Sequence[str]) -> Iterator[Beside]:
    """Begins on the values of variants of the catalogue, if there are many and a core is free."""
    values = Beside(names)
    if len(names) < MANY or (os.cpu_count() or 1) < 2:
        yield values
        return
    command = [sys.executable, "-m", "experiments.variants.values"]
    options = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        # What goes wrong there goes wrong here again, and is told then.
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    }
    with child_process(command, **options) as process:
        values.begin(process)
        yield values


def main() -> None:
    """Answers names until there are no more."""
    for line in sys.stdin:
        (one,) = asked([line.strip()], [])
        print(json.dumps(errors(one)._asdict()), flush=True)


if __name__ == "__main__":
    main()


__all__ = ["Beside", "beside"]
