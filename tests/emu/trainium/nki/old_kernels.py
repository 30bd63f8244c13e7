"""What the tests of the older generation share: its modules, and a kernel run on arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from emu.trainium.nki import interpret, stubs
from emu.trainium.nki.record import record
from emu.trainium.nki.tree import Operation, Recorded, walk

MODULES = stubs.modules()
nki: Any = MODULES["neuronxcc.nki"]
nl: Any = MODULES["neuronxcc.nki.language"]
nisa: Any = MODULES["neuronxcc.nki.isa"]


def recorded(
    kernel: Callable[..., Any], *arguments: Any, device: str = "trn2"
) -> Recorded:
    return record(kernel, arguments, api="neuronxcc.nki", device=device)


def operations(result: Recorded) -> list[Operation]:
    return [operation for operation, _ in walk(result.body)]


def names(result: Recorded) -> list[str]:
    """Which instructions of ours a kernel became, in order."""
    return [operation.choice.instruction.name for operation in operations(result)]


def run(kernel: Callable[..., Any], *arguments: Any, device: str = "trn2") -> Any:
    """The kernel's first result."""
    arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
    return interpret.run(recorded(kernel, *arguments, device=device), *arrays)[0]


def one_tile(function: Callable[..., Any], shape: tuple[int, ...] | None = None) -> Any:
    """A kernel that loads its arguments, calls `function` and stores the result."""

    def kernel(*arguments: Any) -> Any:
        result = function(*[nl.load(argument) for argument in arguments])
        output = nl.ndarray(result.shape, result.dtype, buffer=nl.shared_hbm)
        nl.store(output, result)
        return output

    return kernel
