"""Runs a kernel as plain Python and keeps what it asks of the machine.

Every iteration of every loop is run; `roll` puts the loops back in.
"""

import contextvars
import dataclasses
import inspect
import math
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import emu
from emu.errors import EmulationError
from emu.trainium.nki.dtypes import unpacked
from emu.trainium.nki.handles import Handle, constant, whole_tensor
from emu.trainium.nki.known import Log, Unlogged
from emu.trainium.nki.narrow import narrowed
from emu.trainium.nki.roll import SAMPLED, Roll, Uneven
from emu.trainium.nki.steps import NO, YES
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Operation,
    Place,
    Recorded,
    Tensor,
)
from emu.trainium.nki.written import Written

# Whose compiler runs the body of a loop once for all turns.
TRACED_ONCE = "neuronxcc.nki"
OURS = os.path.dirname(emu.__file__) + os.sep

RECORDER: contextvars.ContextVar["Recorder | None"] = contextvars.ContextVar(
    "recorder", default=None
)


class Turn(int):
    """A loop's index as the kernel gets it: a whole number that knows its loop.

    Attributes:
      count: turns of the loop.
      number: of this turn, from 0.
    """

    count: int
    number: int


class Recorder:
    """What a kernel does, as it does it.

    Attributes:
      api: `neuronxcc.nki` or `nki`.
      device: `trn1`, `trn2` or `trn3`.
      grid: of the launch.
      program: which of the grid's programs is being recorded.
      written: of tensors in PSUM, what products have been written where.
      aliases: of a tile, values made in it that have names of their own.
      sums: stands for the Scalar Engine's register of sums since it was last reset.
      shared: buffers in HBM that a launch's first program made, and `shares` those that the
        current one has not asked for yet.
      given: values of the inputs, of those that are arrays.
      log: of every operation, if a kernel asks what a tensor holds (`known`).
      adders: of a tensor that products are added to, the lines that do so.
      older: those of them that were made before the turn of a loop in which one of the lines is.
      whole: loops of which every turn is run (`roll.Uneven`), by their lines; None runs every
        turn of all.
    """

    def __init__(
        self,
        api: str,
        device: str,
        grid: tuple[int, ...] = (),
        whole: frozenset[str] | None = None,
    ):
        self.api = api
        self.device = device
        self.grid = grid
        self.program: tuple[int, ...] = (0,) * len(grid)
        self.roll = Roll()
        self.inputs: list[Tensor] = []
        self.constants: list[Tensor] = []
        self.stored: dict[Tensor, None] = {}
        self.places: dict[tuple[str, int], Place] = {}
        self.written: dict[Tensor, Written] = {}
        self.sums: Tensor | None = None
        self.aliases: dict[Tensor, list[weakref.ref[Handle]]] = {}
        # The newer generation's launches are cores that run at the same time.
        self.in_turn = bool(grid) and api != "nki"
        self.shared: list[Tensor] = []
        self.shares: Iterator[Tensor] = iter(())
        self.given: dict[Tensor, np.ndarray] = {}
        self.log: Log | None = None
        self.whole = whole
        self.adders: dict[Tensor, set[Place]] = {}
        self.older: set[Tensor] = set()

    def place(self) -> Place:
        """The line of the kernel that is being run."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(OURS):
            frame = frame.f_back
        if frame is None:
            return Place("", 0)
        key = frame.f_code.co_filename, frame.f_lineno
        place = self.places.get(key)
        if place is None:
            place = self.places[key] = Place(*key)
        return place

    def tensor(
        self,
        shape: Sequence[int],
        dtype: Any,
        space: str,
        *,
        name: str = "",
        block: Sequence[int] = (),
        role: str = "temporary",
        value: np.ndarray | None = None,
        bank: int | None = None,
    ) -> Tensor:
        """Declares a buffer."""
        sizes = tuple([int(size) for size in shape])
        if space == "hbm" and self.in_turn:
            # All programs of a launch have HBM in common: the n-th buffer of each is one.
            known = next(self.shares, None)
            if known is not None:
                return known
        tensor = Tensor(
            sizes,
            np.dtype(jnp.dtype(dtype)),
            space,
            name,
            self.place(),
            tuple([int(size) for size in block]),
            role,
            value,
            None,
            bank,
        )
        if space == "hbm" and self.in_turn:
            self.shared.append(tensor)
        if role == "constant":
            self.constants.append(tensor)
        elif role == "temporary" and not (space == "hbm" and self.in_turn):
            self.roll.declare(tensor)
        return tensor

    def emit(
        self,
        name: str,
        choices: tuple[Choice, ...],
        writes: Sequence[Access],
        reads: Sequence["Access | Affine | int"],
        *,
        implicit: bool = False,
    ) -> Operation:
        """Adds an operation; one of an empty access is not done.

        A `bool` among `reads` is a register that says yes or no, such as a matmul's accumulate
        flag; an `int` is one that holds a number.
        """
        registers = tuple(
            [
                read if isinstance(read, Access | Affine) else register(read)
                for read in reads
            ]
        )
        operation = Operation(
            name, choices, tuple(writes), registers, self.place(), 0, implicit
        )
        if not any(empty(access) for access in operation.accesses):
            for access in operation.writes:
                if access.tensor.space == "hbm":
                    self.stored[access.tensor] = None
            if self.log is not None:
                self.log.add(operation)
            self.roll.add(operation)
            self.note_sums(operation)
        return operation

    def note_sums(self, operation: Operation) -> None:
        """Keeps which lines add products to a tensor, if it is older than their loop's turn."""
        if not any(read is NO or read is YES for read in operation.reads):
            return
        for access in operation.writes:
            lines = self.adders.setdefault(access.tensor, set())
            lines.add(operation.place)
            if not self.roll.is_of_this_turn(access.tensor):
                self.older.add(access.tensor)

    def value(self, handle: Handle, function: str) -> np.ndarray:
        """What a tile or buffer holds at this point, from the values of the kernel's arguments."""
        if self.log is None:
            raise Unlogged
        return self.log.value(handle, function, str(self.place()))

    def retarget(
        self, operation: Operation, destination: Access, place: int = 0
    ) -> bool:
        """Makes an operation write its result elsewhere, if nothing happened there since.

        Returns whether it did: not if another operation has touched the destination's tensor
        or read the result since, or if a loop has ended in between.
        """
        involved = (destination.tensor, operation.writes[place].tensor)
        for node in reversed(self.roll.open):
            if node is operation:
                writes = list(operation.writes)
                writes[place] = destination
                operation.writes = tuple(writes)
                if destination.tensor.space == "hbm":
                    self.stored[destination.tensor] = None
                return True
            if not isinstance(node, Operation):
                return False
            if any(access.tensor in involved for access in node.accesses):
                return False
        return False

    def loop(self, count: int, kind: str) -> Iterator[int]:
        """The indices of a loop, whose turns are kept apart until they are rolled."""
        return self.turns(range(count), kind)

    def turns(self, values: Sequence[int], kind: str) -> Iterator[int]:
        """Like `loop`, with other indices."""
        place = self.place()
        numbers: Sequence[int] = range(len(values))
        left_out = len(values) - SAMPLED
        if left_out > 1 and self.is_sampled(kind, place):
            numbers = (0, 1, len(values) - 1)
        else:
            left_out = 0
        loop = self.roll.begin(kind, place, left_out)
        try:
            for number in numbers:
                self.roll.turn(loop)
                index = Turn(values[number])
                index.count, index.number = len(values), number
                yield index
        finally:
            self.roll.end(loop)

    def is_sampled(self, kind: str, place: Place) -> bool:
        """Whether only the first two turns of a loop and the last are run."""
        return (
            self.whole is not None
            and self.api == TRACED_ONCE
            and kind in ("affine", "sequential")
            and str(place) not in self.whole
        )


def register(value: "int | bool | np.integer") -> Affine:
    if isinstance(value, bool | np.bool_):
        return YES if value else NO
    return constant(int(value))


def empty(access: Access) -> bool:
    """Whether a mask or an empty slice left nothing."""
    if access.partitions == 0:
        return True
    for _, count in access.axes:
        if count == 0:
            return True
    return False


def current() -> Recorder:
    """The recorder of the kernel that is being run."""
    recorder = RECORDER.get()
    if recorder is None:
        raise EmulationError(
            "nki: an NKI function was called outside a kernel; run the kernel through "
            "emu.trainium.nki (nki_time, record)"
        )
    return recorder


def recording() -> bool:
    """Whether a kernel is being run."""
    return RECORDER.get() is not None


def newer() -> bool:
    """Whether a kernel of the newer generation is being run."""
    recorder = RECORDER.get()
    return recorder is not None and recorder.api == "nki"


def bare(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel's own function, without the decorators of the stub modules."""
    while hasattr(kernel, "func"):
        kernel = kernel.func  # pyright: ignore[reportFunctionMemberAccess]
    return kernel


def is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def record(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    api: str,
    device: str = "trn2",
    grid: tuple[int, ...] = (),
    keywords: Mapping[str, Any] | None = None,
) -> Recorded:
    """Runs a kernel on handles in place of arrays.

    Args:
      function: the kernel, with or without the decorators of the stub modules.
      arguments: arrays or `jax.ShapeDtypeStruct`s, also inside lists, tuples, dicts and
        dataclasses; anything else is passed as it is.
      api: which modules the kernel was written for.
      device: for kernels that ask.
      grid: programs of an SPMD launch.
      keywords: further arguments by name.
    """
    kernel = bare(function)
    bound = inspect.signature(kernel).bind(*arguments, **(keywords or {}))
    if api == "nki" and math.prod(grid) > 1:
        # The newer generation launches a program for each core.
        if grid != (2,):
            raise EmulationError(
                f"nki.jit: the grid is {list(grid)}, must be [2], the cores of a logical "
                "NeuronCore, or one program"
            )
        from emu.trainium.nki import cores

        return cores.joined(
            *[recorded(kernel, bound, api, device, grid, core) for core in (0, 1)]
        )
    return recorded(kernel, bound, api, device, grid, 0)


def recorded(
    kernel: Callable[..., Any],
    bound: inspect.BoundArguments,
    api: str,
    device: str,
    grid: tuple[int, ...],
    core: int,
) -> Recorded:
    """What all programs of a launch do in turn, or what one core's program does."""
    recorder, result = run_through(kernel, bound, api, device, grid, core)
    outputs = returned(result)
    if not outputs:
        outputs = [tensor for tensor in recorder.stored if tensor.role == "input"]
    body, found = recorder.roll.finish(outputs)
    body = narrowed(body)
    outputs = [found[tensor] for tensor in outputs]
    for number, tensor in enumerate(outputs):
        if tensor.role == "temporary":
            tensor.role, tensor.number = "output", number
    name = getattr(kernel, "__name__", "kernel")
    return Recorded(
        name,
        api,
        body,
        tuple(recorder.inputs),
        tuple(outputs),
        tuple(recorder.constants),
    )


def run_through(
    kernel: Callable[..., Any],
    given: inspect.BoundArguments,
    api: str,
    device: str,
    grid: tuple[int, ...],
    core: int,
) -> tuple[Recorder, Any]:
    """Runs the kernel, with as few turns of its loops as tell of all (`roll`)."""
    whole: set[str] = set()
    while True:
        recorder = Recorder(api, device, grid, frozenset(whole))
        try:
            found = ran(recorder, kernel, given, False, core)
        except Uneven as loop:
            whole.add(str(loop.place))
            continue
        except Unlogged:
            break
        except Exception:
            # Of a turn that was left out, or the kernel's own: every turn is run to tell.
            if api != TRACED_ONCE:
                raise
            break
        if not sums_of_several(recorder):
            return found
        break
    try:
        return ran(Recorder(api, device, grid), kernel, given, False, core)
    except Unlogged:
        return ran(Recorder(api, device, grid), kernel, given, True, core)


def sums_of_several(recorder: Recorder) -> bool:
    """Whether several lines of the kernel add products to a tensor that is older than a turn.

    Which of them is the first then depends on what each wrote, in every turn.
    """
    return any(len(recorder.adders[tensor]) > 1 for tensor in recorder.older)


def ran(
    recorder: Recorder,
    kernel: Callable[..., Any],
    given: inspect.BoundArguments,
    logged: bool,
    core: int,
) -> tuple[Recorder, Any]:
    """Runs the kernel on handles; `logged` keeps what `known` needs. Gives what it returned."""
    arguments = inspect.BoundArguments(given.signature, OrderedDict(given.arguments))
    for name, value in given.arguments.items():
        arguments.arguments[name] = held_by_kernel(recorder, value, name)
    if not recorder.in_turn:
        recorder.program = tuple(core for _ in recorder.grid)
    if logged:
        recorder.log = Log(recorder.given)
    # Here, since they are made of functions that record.
    from emu.trainium.nki import load

    token = RECORDER.set(recorder)
    try:
        # Kernels import modules of NKI in their own bodies too.
        with load.present(kernel):
            result = launched(recorder, kernel, arguments)
        recorder.roll.check_even()
        return recorder, result
    except EmulationError as error:
        raise placed(error) from error.__cause__
    finally:
        RECORDER.reset(token)


def launched(
    recorder: Recorder, kernel: Callable[..., Any], arguments: inspect.BoundArguments
) -> Any:
    """Runs every program of the launch, one after the other; gives what the last returned."""
    grid = recorder.grid if recorder.in_turn else ()
    result: Any = None

    def programs(axis: int) -> None:
        nonlocal result
        if axis == len(grid):
            recorder.shares = iter(tuple(recorder.shared))
            result = kernel(*arguments.args, **arguments.kwargs)
            return
        for index in recorder.loop(grid[axis], "grid"):
            program = recorder.program
            recorder.program = (*program[:axis], int(index), *program[axis + 1 :])
            programs(axis + 1)

    programs(0)
    return result


def placed(error: EmulationError) -> EmulationError:
    """The error with the kernel's line, where it does not say it yet."""
    line, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(OURS):
            line = f"{code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    if not line or str(error).endswith(")") and ".py:" in str(error):
        return error
    return type(error)(str(error), line)


def held_by_kernel(recorder: Recorder, value: Any, name: str) -> Any:
    """An argument as the kernel gets it: handles in place of arrays."""
    if is_array(value):
        number = len(recorder.inputs)
        held = np.dtype(value.dtype)
        element, count = unpacked(held)
        shape = tuple(value.shape)
        tensor = Tensor(
            shape if count == 1 else (*shape, count),
            element,
            "hbm",
            name,
            role="input",
            number=number,
        )
        recorder.inputs.append(tensor)
        if not isinstance(value, jax.ShapeDtypeStruct):
            recorder.given[tensor] = np.asarray(value).view(element)
        if count > 1:
            return whole_tensor(tensor, held)
        return whole_tensor(tensor)
    if isinstance(value, Mapping):
        return {
            key: held_by_kernel(recorder, part, f"{name}.{key}")
            for key, part in value.items()
        }
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        parts = [
            held_by_kernel(recorder, part, f"{name}.{i}")
            for i, part in enumerate(value)
        ]
        return parts if isinstance(value, list) else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: held_by_kernel(recorder, getattr(value, field.name), field.name)
            for field in dataclasses.fields(value)
            if field.init
        }
        return dataclasses.replace(value, **changes)
    return value


def returned(result: Any) -> list[Tensor]:
    """The tensors that a kernel returned, in order."""
    if isinstance(result, Handle):
        return [result.tensor]
    if isinstance(result, Mapping):
        return [tensor for part in result.values() for tensor in returned(part)]
    if isinstance(result, list | tuple):
        return [tensor for part in result for tensor in returned(part)]
    return []
