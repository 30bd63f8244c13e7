"""A recorded kernel as a JAX function over our instructions.

Loops become `lax.scan` over `jnp.arange`, so that the clock knows every index; what is carried are
the buffers that the loop writes and that are declared around it. An operation reads and writes
boxes of whole buffers (`layout`, `emu.boxes`), whose starts are integers computed from the indices.
Each call is made at the kernel's own line (`emu.tracing.place`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.boxes import Old, boxed
from emu.datasheet import Packing
from emu.errors import EmulationError
from emu.instruction import Instruction, release
from emu.regions import Region
from emu.tracing import place
from emu.trainium.engines.memory import hbm, psum, sbuf
from emu.trainium.nki import rings
from emu.trainium.nki.layout import Placed, forms, placed
from emu.trainium.nki.scopes import Buffer, Scopes, bodies, scopes
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    PerCore,
    Place,
    Recorded,
    Tensor,
    walk,
)

T = TypeVar("T")

# Engines that end what they do in the order in which it is issued.
_IN_ORDER = {"vector", "scalar", "gpsimd"}
# Elements per partition, about a cycle each: longer than from a result to where it can be read.
_LONG = 512

CORES = "nc"
"""The mesh axis of the cores that run a kernel together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An operation, ready to be called: destinations, sources, then where all of them start.

    Attributes:
      instruction: on whole buffers and start registers.
      parameters: its static ones.
      writes: destinations.
      overwrites: whether what they held before is lost.
      reads: sources; an `Affine` is a register.
      starts: registers.
    """

    instruction: Instruction[..., Any]
    parameters: Mapping[str, Any]
    writes: tuple[Buffer, ...]
    overwrites: bool
    reads: tuple[Buffer | Affine, ...]
    starts: tuple[Affine, ...]

    @property
    def registers(self) -> tuple[Affine, ...]:
        """All integers that it takes."""
        sources = tuple(read for read in self.reads if isinstance(read, Affine))
        return (*self.starts, *sources)


@dataclasses.dataclass
class State:
    """What is known at a point of the program while it is traced.

    Attributes:
      held: the value of each buffer.
      unread: buffers that may hold what nobody has read.
      registers: the integers that have been computed.
    """

    held: dict[Buffer, jax.Array]
    unread: set[Buffer]
    registers: Mapping[Affine, KnownInt]


def lower(
    recorded: Recorded,
    *,
    depths: Mapping[Tensor, int] | None = None,
    depth: int = rings.DEPTH,
) -> Callable[..., tuple[jax.Array, ...]]:
    """A function from a kernel's inputs to its outputs, arrays in HBM, as one core runs it.

    Args:
      recorded: the kernel.
      depths: buffers of some tensors' rings; None has those that passes chose.
      depth: of all other rings.

    Raises:
      EmulationError: an operation that no instruction of ours can do.
    """
    chosen = recorded.depths if depths is None else depths
    lowering = Lowering(recorded, chosen, depth)

    def kernel(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        return lowering.trace(inputs)

    kernel.__name__ = kernel.__qualname__ = recorded.name
    return kernel


class Lowering:
    """What is found out once about a kernel, whatever arguments it is traced with."""

    def __init__(
        self, recorded: Recorded, depths: Mapping[Tensor, int], depth: int
    ) -> None:
        self.recorded = recorded
        self.scopes: Scopes = scopes(recorded.body)
        self.shapes = forms(self.scopes)
        self.depths = depths
        self.depth = depth
        self.writers = _writers(recorded.body, self.scopes)
        self.steps: dict[Operation, Step] = {}
        # Of loops and of what cores do apart: the buffers from outside that they write, in order.
        self.carried: dict[Node, list[Buffer]] = {}
        # Integers are computed in the body of the innermost loop that they depend on.
        self.registers: dict[Loop | None, dict[Affine, None]] = {}
        # After a node, the buffers of which it is the last use in their block.
        self.ended: dict[Node, list[Buffer]] = {}
        self._prepare(recorded.body, ())

    # --- preparation ---

    def _prepare(
        self, body: Sequence[Node], loops: tuple[Loop, ...]
    ) -> dict[Buffer, bool]:
        """Prepares a body: the buffers that it uses, in order, and whether it writes them."""
        used: dict[Buffer, bool] = {}
        last: dict[Buffer, Node] = {}
        own: set[Buffer] = set()
        for node in body:
            own.update(self.scopes.declared.get(node, ()))
            inside = self._uses(node, loops)
            last.update(dict.fromkeys(inside, node))
            for buffer, writes in inside.items():
                used[buffer] = used.get(buffer, False) or writes
        for buffer in last:
            if buffer in own:
                self.ended.setdefault(last[buffer], []).append(buffer)
        return {buffer: writes for buffer, writes in used.items() if buffer not in own}

    def _uses(self, node: Node, loops: tuple[Loop, ...]) -> dict[Buffer, bool]:
        if isinstance(node, Operation):
            step = self._step(node, loops)
            self.steps[node] = step
            for register in step.registers:
                self._keep(register, loops)
            reads = [read for read in step.reads if isinstance(read, Buffer)]
            return {**dict.fromkeys(reads, False), **dict.fromkeys(step.writes, True)}
        around = (*loops, node) if isinstance(node, Loop) else loops
        inside: dict[Buffer, bool] = {}
        for body in bodies(node):
            for buffer, writes in self._prepare(body, around).items():
                inside[buffer] = inside.get(buffer, False) or writes
        self.carried[node] = [buffer for buffer, writes in inside.items() if writes]
        return inside

    def _step(self, operation: Operation, loops: tuple[Loop, ...]) -> Step:
        choice = operation.choice
        reads = operation.reads
        if choice.operands is not None:
            reads = tuple(reads[number] for number in choice.operands)
        writes = [self._placed(write) for write in operation.writes]
        written = tuple(map(self.scopes.of, operation.writes))
        if len(set(written)) < len(written):
            raise EmulationError(
                f"{operation.name}: two of its results are parts of one tile, must be in tiles "
                "of their own",
                str(operation.place),
            )
        boxes: list[Region | Old | None] = []
        taken: list[Buffer | Affine] = []
        starts = [start for part in writes for start in part.starts]
        for read in reads:
            if isinstance(read, Affine):
                boxes.append(None)
                taken.append(read)
                continue
            buffer, part = self.scopes.of(read), self._placed(read)
            in_place = (buffer, part) in zip(written, writes, strict=True)
            if in_place and self._goes_on(operation, read, part, loops):
                # What it replaces is no further operand, for which it would wait (`emu.boxes.Old`).
                boxes.append(Old(written.index(buffer)))
                continue
            boxes.append(part.box)
            taken.append(buffer)
            starts += part.starts
        parts = tuple(part.box for part in writes)
        instruction = boxed(choice.instruction, parts, tuple(boxes))
        return Step(
            instruction=instruction,
            parameters=choice.parameters,
            writes=written,
            overwrites=not instruction.reads_destination,
            reads=tuple(taken),
            starts=tuple(starts),
        )

    def _goes_on(
        self,
        operation: Operation,
        access: Access,
        part: Placed,
        loops: tuple[Loop, ...],
    ) -> bool:
        """Whether what an operation in place reads was surely written long before it.

        The clock knows no parts of buffers: who has a part as a source waits for every write to
        the buffer, also for that of the turn before to another part. Sums that go from part to part
        need not wait, if one in-order engine alone writes the buffer and comes back to a part only
        when the pipeline's latency has passed.
        """
        if not loops:
            return False
        inner, buffer = loops[-1], self.scopes.of(access)
        free = math.prod(access.shape[1:])
        moves = any(
            coefficient and loop is inner
            for start in part.starts
            for loop, coefficient in start.terms
        )
        writers = self.writers[buffer]
        engines = {writer.choice.engine for writer in writers}
        alone = [writer for writer in writers if writer in inner.body] == [operation]
        return (
            moves
            and alone
            and inner not in buffer.loops
            and len(engines) == 1
            and engines <= _IN_ORDER
            and free * (inner.count - 1) >= _LONG
        )

    def _placed(self, access: Access) -> Placed:
        buffer = self.scopes.of(access)
        return placed(access, buffer, self.shapes[buffer])

    def _keep(self, register: Affine, loops: tuple[Loop, ...]) -> None:
        """Notes where an integer is computed."""
        named = [loop for loop, _ in register.terms]
        inner = [loop for loop in loops if loop in named]
        # Of the cores' own index alone it is computed before everything else.
        innermost = inner[-1] if inner else None
        self.registers.setdefault(innermost, {})[register] = None

    # --- tracing ---

    def trace(self, inputs: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """The kernel's outputs for its inputs."""
        recorded = self.recorded
        held: dict[Buffer, jax.Array] = {}
        for tensor, value in zip(recorded.inputs, inputs, strict=True):
            buffer = self.scopes.whole(tensor)
            if buffer is not None:
                held[buffer] = value
        for tensor in recorded.constants:
            buffer = self.scopes.whole(tensor)
            if buffer is not None:
                held[buffer] = jnp.asarray(tensor.value, tensor.dtype)
        indices: dict[Loop, KnownInt] = {}
        if recorded.cores is not None:
            indices[recorded.cores] = lax.axis_index(CORES)
        state = State(held, set(), self._computed({}, None, indices))
        self._block(recorded.body, state, indices)
        given = dict(zip(recorded.inputs, inputs, strict=True))
        outputs: list[jax.Array] = []
        for tensor in recorded.outputs:
            buffer = self.scopes.whole(tensor)
            if buffer is None and tensor not in given:
                raise EmulationError(
                    f"{recorded.name}: nothing is stored into result {tensor.number}, must be "
                    "written before it is returned",
                    str(tensor.place or ""),
                )
            result = given[tensor] if buffer is None else held[buffer]
            # Declared in a finer view, such as `[8, 4, 128]` of `[8, 512]`.
            outputs.append(result.reshape(tensor.shape))
        return tuple(outputs)

    def _computed(
        self,
        known: Mapping[Affine, KnownInt],
        loop: Loop | None,
        indices: Mapping[Loop, KnownInt],
    ) -> dict[Affine, KnownInt]:
        """The integers that were known, and those that depend on a loop's index."""
        own = self.registers.get(loop, {})
        return {**known, **{each: _value(each, indices) for each in own}}

    def _block(
        self, body: Sequence[Node], state: State, indices: Mapping[Loop, KnownInt]
    ) -> None:
        for node in body:
            for buffer in self.scopes.declared.get(node, ()):
                state.held[buffer] = self._declared(buffer, node)
            if isinstance(node, Operation):
                self._operation(node, state)
            elif isinstance(node, PerCore):
                self._per_core(node, state, indices)
            else:
                self._loop(node, state, indices)
            for buffer in self.ended.get(node, ()):
                if buffer in state.unread and buffer.tensor.space != "hbm":
                    release(state.held[buffer])

    def _declared(self, buffer: Buffer, node: Node) -> jax.Array:
        tensor = buffer.tensor
        where = tensor.place or _first_place(node)
        count = rings.depth(buffer, self.depths, self.depth)
        shape = self.shapes[buffer]

        def declaration() -> jax.Array:
            if tensor.space == "hbm":
                return hbm(*shape, dtype=tensor.dtype)
            if tensor.space == "psum":
                return psum(
                    *shape,
                    dtype=tensor.dtype,
                    buffers=count,
                    bank=tensor.bank,
                    shares=buffer.packing is Packing.SHARED,
                )
            return sbuf(*shape, dtype=tensor.dtype, buffers=count)

        return _at(where, declaration)

    def _operation(self, operation: Operation, state: State) -> None:
        step = self.steps[operation]

        def call() -> Any:
            for buffer in step.writes if step.overwrites else ():
                if buffer in state.unread and buffer not in step.reads:
                    # What the kernel wrote before and never read is timed all the same.
                    release(state.held[buffer])
            operands: list[jax.Array | KnownInt] = []
            # What makes a fresh buffer of its own has no destination.
            into = step.writes if step.instruction.in_place else ()
            for operand in (*into, *step.reads, *step.starts):
                if isinstance(operand, Buffer):
                    operands.append(state.held[operand])
                else:
                    operands.append(state.registers[operand])
            return step.instruction(*operands, **step.parameters)

        result = _at(operation.place, call)
        results = result if isinstance(result, tuple) else (result,)
        state.unread.difference_update(
            read for read in step.reads if isinstance(read, Buffer)
        )
        state.unread.update(step.writes)
        state.held.update(zip(step.writes, results, strict=True))

    def _loop(self, loop: Loop, state: State, indices: Mapping[Loop, KnownInt]) -> None:
        carried = self.carried[loop]
        touched: set[Buffer] = set()

        def step(
            carry: tuple[jax.Array, ...], index: KnownInt
        ) -> tuple[tuple[jax.Array, ...], None]:
            own = {**indices, loop: index}
            held = {**state.held, **dict(zip(carried, carry, strict=True))}
            # What the turn before has written nobody may have read.
            unread = {*state.unread, *carried}
            inner = State(held, unread, self._computed(state.registers, loop, own))
            self._block(loop.body, inner, own)
            touched.clear()
            touched.update(inner.unread)
            return tuple(held[buffer] for buffer in carried), None

        before = tuple(state.held[buffer] for buffer in carried)
        if loop.count == 1:
            after, _ = step(before, 0)
        else:
            places = jnp.arange(loop.count, dtype=jnp.int32)
            after, _ = _at(loop.place, lambda: lax.scan(step, before, places))
        state.held.update(zip(carried, after, strict=True))
        state.unread = {each for each in touched if each in state.held}

    def _per_core(
        self, node: PerCore, state: State, indices: Mapping[Loop, KnownInt]
    ) -> None:
        carried = self.carried[node]

        def branch(body: Sequence[Node]) -> Callable[..., tuple[jax.Array, ...]]:
            def run(*before: jax.Array) -> tuple[jax.Array, ...]:
                held = {**state.held, **dict(zip(carried, before, strict=True))}
                inner = State(held, {*state.unread, *carried}, state.registers)
                self._block(body, inner, indices)
                return tuple(held[buffer] for buffer in carried)

            return run

        core = lax.axis_index(CORES)
        before = [state.held[buffer] for buffer in carried]
        after = lax.switch(core, [branch(body) for body in node.bodies], *before)
        state.held.update(zip(carried, after, strict=True))
        state.unread.update(carried)


def _value(register: Affine, indices: Mapping[Loop, KnownInt]) -> KnownInt:
    total: KnownInt = register.constant
    for loop, coefficient in register.terms:
        index = indices[loop]
        scaled = index if coefficient == 1 else index * coefficient
        total = scaled if isinstance(total, int) and total == 0 else total + scaled
    return total


def _writers(body: list[Node], scopes: Scopes) -> dict[Buffer, list[Operation]]:
    """Of each buffer the operations that write it."""
    writers: dict[Buffer, list[Operation]] = {}
    for operation, _ in walk(body):
        for write in operation.writes:
            writers.setdefault(scopes.of(write), []).append(operation)
    return writers


def _first_place(node: Node) -> Place:
    if isinstance(node, PerCore):
        return next(_first_place(body[0]) for body in node.bodies if body)
    return node.place


def _at(where: Place, function: Callable[[], T]) -> T:
    return place.at(where.file, where.line, function)


__all__ = ["CORES", "lower"]
