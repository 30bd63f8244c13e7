"""What a recorded kernel computes, one operation after the other, in NumPy buffers.

The slow and obvious reading: every turn of every loop is run, an operation's parts of its buffers
are copied out, its instruction computes, and the results are copied back. It tells while a kernel
is still being recorded what an integer that it loaded is (`known`), and it is what `lower` is
tested against.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.errors import EmulationError
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    PerCore,
    Recorded,
    Tensor,
)

Turns: TypeAlias = dict[Loop, int]
"""Which turn each loop around an operation is in."""


class Buffers:
    """Arrays of tensors, made when they are first met; integers not written yet are the largest."""

    def __init__(
        self, given: Mapping[Tensor, np.ndarray], shared: "Buffers | None" = None
    ):
        self._arrays: dict[Tensor, np.ndarray] = {}
        self._shared = shared
        for tensor, value in given.items():
            held = np.asarray(value).astype(tensor.dtype, copy=False)
            self._arrays[tensor] = held.reshape(*tensor.block, *tensor.shape).copy()

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._home(tensor)._arrays

    def _home(self, tensor: Tensor) -> "Buffers":
        # Cores have memory on chip of their own and HBM in common.
        if self._shared is not None and tensor.space == "hbm":
            return self._shared
        return self

    def array(self, tensor: Tensor) -> np.ndarray:
        """`[*block, *shape]`, to read and to write."""
        arrays = self._home(tensor)._arrays
        if tensor not in arrays:
            shape = *tensor.block, *tensor.shape
            if tensor.value is not None:
                arrays[tensor] = tensor.value.astype(tensor.dtype).reshape(shape)
            else:
                arrays[tensor] = np.full(shape, _poison(tensor.dtype), tensor.dtype)
        return arrays[tensor]

    def part(self, access: Access, turns: Turns) -> np.ndarray:
        """The elements of an access, as a view."""
        tensor = access.tensor
        member = tuple(valued(index, turns) for index in access.member)
        held = self.array(tensor)[member]
        offset = valued(access.offset, turns)
        strides = [stride for stride, _ in access.axes]
        counts = [count for _, count in access.axes]
        last = offset + sum(s * (n - 1) for s, n in access.axes)
        # The same bytes in another format, if they are read so.
        dtype = access.dtype
        if access.partitions is None:
            flat = held.reshape(-1).view(dtype)
            self._check(access, offset, last, flat.size)
            # Not as a slice: NumPy would not let a stride reach past the end of one.
            return np.ndarray(
                tuple(counts),
                dtype,
                flat,
                offset * flat.itemsize,
                tuple(s * flat.itemsize for s in strides),
            )
        rows = held.reshape(held.shape[0], -1).view(dtype)
        self._check(access, offset, last, rows.shape[1])
        first = valued(access.partition, turns)
        end = first + access.partition_step * (access.partitions - 1)
        self._check(access, first, end, rows.shape[0])
        row, item = rows.strides
        return np.ndarray(
            (access.partitions, *counts),
            dtype,
            rows,
            first * row + offset * item,
            (row * access.partition_step, *(s * item for s in strides)),
        )

    def _check(self, access: Access, first: int, last: int, size: int) -> None:
        if first < 0 or last >= size:
            raise EmulationError(
                f"{access.tensor.name or 'a tensor'}: elements {first} to {last}, must be 0 to "
                f"{size - 1}"
            )


def _poison(dtype: np.dtype) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.nan
    return True if dtype == np.bool_ else np.iinfo(dtype).max


def valued(index: Affine, turns: Turns) -> int:
    """The number that an expression is in these turns."""
    return index.constant + sum(c * turns[loop] for loop, c in index.terms)


Crossing: TypeAlias = tuple[Operation, list[np.ndarray], list[np.ndarray]]
"""An operation of all cores, with one core's destinations and sources."""


def steps(
    body: Sequence[Node], buffers: Buffers, turns: Turns, core: int = 0
) -> Generator[Crossing, list[np.ndarray], None]:
    """Runs a body; hands out what crosses cores and takes the results for it."""
    for node in body:
        if isinstance(node, Loop):
            for turn in range(node.count):
                yield from steps(node.body, buffers, {**turns, node: turn}, core)
        elif isinstance(node, PerCore):
            yield from steps(node.bodies[core], buffers, turns, core)
        else:
            yield from _step(node, buffers, turns)


def _step(
    operation: Operation, buffers: Buffers, turns: Turns
) -> Generator[Crossing, list[np.ndarray], None]:
    choice = operation.choice
    reads = operation.reads
    if choice.operands is not None:
        reads = tuple(reads[place] for place in choice.operands)
    destinations = [buffers.part(access, turns) for access in operation.writes]
    old = [
        part.reshape(access.shape)
        for part, access in zip(destinations, operation.writes, strict=True)
    ]
    sources: list[Any] = []
    for read in reads:
        if isinstance(read, Access):
            sources.append(buffers.part(read, turns).reshape(read.shape))
        else:
            sources.append(np.int32(valued(read, turns)))
    instruction = choice.instruction
    if instruction.across:
        results = yield operation, [x.copy() for x in old], sources
    else:
        given = [*old, *sources] if instruction.in_place else sources
        operands = [jnp.asarray(x) for x in given]
        result = instruction(*operands, **choice.parameters)
        results = list(result) if isinstance(result, tuple) else [result]
    for destination, value in zip(destinations, results, strict=True):
        destination[...] = np.asarray(value).reshape(destination.shape)


def _together(running: list[Generator[Crossing, list[np.ndarray], None]]) -> None:
    """Runs all cores; where they meet, one instruction computes for all."""
    met: list[Crossing | None] = [next(each, None) for each in running]
    while any(crossing is not None for crossing in met):
        crossings = [crossing for crossing in met if crossing is not None]
        operation = crossings[0][0]
        if len(crossings) < len(running):
            raise EmulationError(
                f"{operation.name}: not all cores come to it", str(operation.place)
            )
        by_core = [[*writes, *reads] for _, writes, reads in crossings]
        stacked = [jnp.asarray(np.stack(each)) for each in zip(*by_core, strict=True)]
        choice = operation.choice
        result = choice.instruction.meaning(*stacked, **choice.parameters)
        results = list(result) if isinstance(result, tuple) else [result]
        arrays = [np.asarray(each) for each in results]
        met = []
        for core, each in enumerate(running):
            try:
                met.append(each.send([array[core] for array in arrays]))
            except StopIteration:
                met.append(None)


def run(recorded: Recorded, *arguments: Any) -> tuple[np.ndarray, ...]:
    """The outputs of a recorded kernel for arrays in the order of its inputs."""
    given = dict(zip(recorded.inputs, map(np.asarray, arguments), strict=True))
    shared = Buffers(given)
    count = 1 if recorded.cores is None else recorded.cores.count
    running = []
    for core in range(count):
        turns = {} if recorded.cores is None else {recorded.cores: core}
        own = Buffers({}, shared)
        running.append(steps(recorded.body, own, turns, core))
    _together(running)
    return tuple(shared.array(output) for output in recorded.outputs)


__all__ = ["Buffers", "run", "steps", "valued"]
