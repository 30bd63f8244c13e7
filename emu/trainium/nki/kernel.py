"""What decorators such as `@nki.jit` make of a kernel: a function with a launch grid."""

from collections.abc import Callable
from typing import Any

import numpy as np

from emu.errors import NkiError
from emu.trainium.nki.machine import Cores, Spread
from emu.trainium.nki.record import Recorded, record, recording


class Kernel:
    """A kernel: called inside another one it is part of that; called outside it is run.

    Attributes:
      func: the function as its author wrote it.
      api: of NKI that it was written for.
      grid: of the launch, `kernel[4, 2](...)`.
      options: of the decorator, such as the number of iterations of a benchmark.
      report: of the last launch from a script.
      benchmark_result: the same as `nki.benchmark` tells it.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        api: str,
        grid: tuple[int, ...] = (),
        **options: Any,
    ):
        self.func = func
        self.api = api
        self.grid = grid
        self.options = options
        self.__name__ = getattr(func, "__name__", "kernel")
        self.__doc__ = func.__doc__
        # Scripts and tests ask for a kernel's parameters by `inspect.signature`.
        self.__wrapped__ = func

    def __getitem__(self, grid: Any) -> "Kernel":
        """The kernel with a launch grid."""
        sizes = grid if isinstance(grid, tuple | list) else (grid,)
        return type(self)(self.func, self.api, tuple(map(size, sizes)), **self.options)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if recording():
            return self.func(*arguments, **keywords)
        return self.launch(arguments, keywords)

    def launch(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What a script that calls the kernel gets (`launch`); the report is `report` here."""
        # Later, because what is launched imports what kernels are made of.
        from emu.trainium.nki import launch

        purpose = str(self.options.get("purpose", "jit"))
        self.report, values = launch.launch(
            self, purpose, arguments, keywords, self.grid
        )
        self.benchmark_result = launch.BenchmarkResult(self.report)
        return values

    def record(
        self,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        device: str = "trn2",
    ) -> Recorded:
        """What the kernel does with arguments of these shapes."""
        return record(
            self.func,
            arguments,
            api=self.api,
            device=device,
            grid=self.grid,
            keywords=keywords,
        )


def size(part: object) -> int:
    """One dimension of a launch grid."""
    if isinstance(part, Spread):
        return part.size
    if isinstance(part, int | np.integer | Cores):
        return int(part)
    raise NkiError(f"nki.jit: a grid has {part!r}, must be whole numbers or nl.nc(n)")


def decorator(api: str, **fixed: Any) -> Callable[..., Any]:
    """A decorator with or without arguments: `@nki.jit`, `@nki.jit(mode=...)`."""

    def decorate(func: Any = None, *unused: Any, **options: Any) -> Any:
        if func is None or not callable(func):
            return lambda inner: decorate(inner, **options)
        bare = func.func if isinstance(func, Kernel) else func
        grid = func.grid if isinstance(func, Kernel) else ()
        return Kernel(bare, api, grid, **fixed, **options)

    return decorate
