"""The only contact with JAX's internals: what an equation holds, on every JAX supported.

JAX 0.12 dropped `num_consts` and `num_carry` from `scan` and no longer wraps sub-jaxprs in
`ClosedJaxpr`; nothing outside this file needs to know.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Literal, Primitive
from jax.extend.core import Var as Var  # re-exported for annotations
from jax.sharding import NamedSharding, PartitionSpec

from emu.tracing.side_by_side import in_order

T = TypeVar("T")

_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    # What `jax.checkpoint` is called, by version.
    "checkpoint",
    "remat",
    "remat2",
}

# Addressing is free: these name part of a buffer, or repeat it, without moving a byte.
VIEWS = {
    "reshape",
    "squeeze",
    "slice",
    "dynamic_slice",
    "broadcast_in_dim",
    "expand_dims",
}
# Casts of a mesh axis' type under shard_map, and hints, do nothing on the device.
IDENTITIES = {
    "pvary",
    "pcast",
    "stop_gradient",
    "optimization_barrier",
    "copy",
    "copy_p",
}


class Aval(Protocol):
    """An abstract value: what is known of an array before it is computed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


class Atom(Protocol):
    """A variable or a literal of a jaxpr."""

    @property
    def aval(self) -> Aval: ...


class Equation(Protocol):
    """What is read of `jax.extend.core.JaxprEqn`."""

    @property
    def primitive(self) -> Primitive: ...

    @property
    def invars(self) -> Sequence[Atom]: ...

    @property
    def outvars(self) -> Sequence[Atom]: ...

    @property
    def params(self) -> Mapping[str, Any]: ...

    @property
    def source_info(self) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class OwnEquation:
    """An equation that no JAX traced: one of JAX's with other parameters."""

    primitive: Primitive
    invars: Sequence[Atom]
    outvars: Sequence[Atom]
    params: Mapping[str, Any]
    source_info: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """A jaxpr with its constants: `constvars` bound to `consts`, then `invars` to arguments.

    An atom, variable or literal, is known by its `id`: JAX's literals cannot be hashed.
    """

    invars: list[Atom]
    outvars: list[Atom]
    eqns: list[Equation]
    constvars: list[Atom]
    consts: list[Any]

    @functools.cached_property
    def literals(self) -> list[Atom]:
        """The literals among its equations' operands and its outputs."""
        atoms: list[Atom] = []
        for eqn in self.eqns:
            atoms += eqn.invars
        atoms += self.outvars
        return [atom for atom in atoms if is_literal(atom)]

    @functools.cached_property
    def ids(self) -> tuple[list[int], list[int]]:
        """The ids of its inputs and of its outputs."""
        return _ids(self.invars), _ids(self.outvars)

    @functools.cached_property
    def steps(self) -> list[tuple[Equation, list[int], list[int]]]:
        """Each equation with the ids of its operands and of its results."""
        return [(eqn, _ids(eqn.invars), _ids(eqn.outvars)) for eqn in self.eqns]

    @functools.cached_property
    def last_uses(self) -> list[list[int]]:
        """Of each equation, the ids of variables that it is the last to read or that none reads."""
        kept = {id(atom) for atom in self.literals} | set(self.ids[1])
        found: list[list[int]] = []
        for _, operands, results in reversed(self.steps):
            own = [
                atom for atom in dict.fromkeys(operands + results) if atom not in kept
            ]
            kept.update(own)
            found.append(own)
        return found[::-1]


def _ids(atoms: Sequence[Atom]) -> list[int]:
    return [id(atom) for atom in atoms]


@dataclasses.dataclass(frozen=True)
class Scan:
    """A `scan` equation: inputs are consts, then carry, then stacked slices."""

    body: Body
    consts: int
    carry: int
    length: int
    reverse: bool

    def parts(self, inputs: list[T]) -> tuple[list[T], list[T], list[T]]:
        """Consts, carry and stacked slices among the loop's inputs."""
        first = self.consts
        end = first + self.carry
        return inputs[:first], inputs[first:end], inputs[end:]


def trace(fn: Callable[..., Any], avals: list[Any], mesh: Mapping[str, int]) -> Body:
    """Traces `fn`, written for one core, in program order and with the mesh's axis names bound.

    Args:
      fn: kernel of one core.
      avals: pytrees of `jax.ShapeDtypeStruct`, the per-core arguments.
      mesh: axis name to size.
    """
    with in_order(mesh):
        # Names alone are bound: no device of the mesh need exist.
        jaxpr = jax.make_jaxpr(fn, axis_env=list(mesh.items()))(*avals)
    return body(jaxpr)


@functools.lru_cache(maxsize=4096)
def body(jaxpr: Any) -> Body:
    """The `Body` of a `Jaxpr` or `ClosedJaxpr`; a `Body` is its own."""
    if isinstance(jaxpr, Body):
        return jaxpr
    # One `Body` for each jaxpr, as it is known by its identity: what others keep by body, such as
    # its literals' values and its decisions, is found again in each iteration.
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    consts = getattr(jaxpr, "consts", None) or ()
    return Body(
        invars=list(inner.invars),
        outvars=list(inner.outvars),
        eqns=list(inner.eqns),
        constvars=list(inner.constvars),
        consts=list(consts),
    )


def scan(eqn: Equation) -> Scan:
    """Reads a `scan` equation."""
    params = eqn.params
    if "num_carry" in params:
        consts = params["num_consts"]
        carry = params["num_carry"]
    else:
        # From JAX 0.12 on the inputs are in groups, consts and carry first.
        of_consts, of_carry, *_ = params["ft_in"].unpack()
        consts = len(of_consts)
        carry = len(of_carry)
    return Scan(
        body=body(params["jaxpr"]),
        consts=consts,
        carry=carry,
        length=params["length"],
        reverse=params["reverse"],
    )


def branches(eqn: Equation) -> list[Body]:
    """The branches of a `cond` equation; operand 0 is the index."""
    return [body(branch) for branch in eqn.params["branches"]]


def call(eqn: Equation) -> Body | None:
    """The body of an equation that only calls, or None."""
    key = _called(eqn)
    return None if key is None else body(eqn.params[key])


def _called(eqn: Equation) -> str | None:
    """The parameter that holds what an equation calls, if it only calls."""
    if eqn.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in eqn.params:
            return key
    return None


def inner(eqn: Equation) -> list[Body]:
    """The bodies inside an equation: of a loop, of a call, or a branch's cases."""
    if eqn.primitive.name == "scan":
        return [scan(eqn).body]
    if eqn.primitive.name == "cond":
        return branches(eqn)
    called = call(eqn)
    return [] if called is None else [called]


def with_inner(eqn: Equation, become: Callable[[Body], Body]) -> Equation:
    """The equation with each body inside it replaced by what it becomes."""
    name = eqn.primitive.name
    if name == "scan":
        return with_params(eqn, {"jaxpr": become(scan(eqn).body)})
    if name == "cond":
        return with_params(eqn, {"branches": tuple(map(become, branches(eqn)))})
    key = _called(eqn)
    if key is None:
        return eqn
    return with_params(eqn, {key: become(body(eqn.params[key]))})


def with_params(eqn: Equation, others: Mapping[str, Any]) -> Equation:
    """The equation with some parameters replaced or added."""
    params = {**eqn.params, **others}
    return OwnEquation(eqn.primitive, eqn.invars, eqn.outvars, params, eqn.source_info)


@functools.lru_cache(maxsize=4096)
def axes(body: Body) -> frozenset[str]:
    """Mesh axes along which a body asks for its core's index."""
    asked: set[str] = set()
    for eqn in body.eqns:
        if eqn.primitive.name == "axis_index":
            asked.add(eqn.params["axis_name"])
        for inside in inner(eqn):
            asked |= axes(inside)
    return frozenset(asked)


def is_literal(atom: object) -> bool:
    return isinstance(atom, Literal)


def literal_value(atom: Atom) -> np.ndarray:
    assert isinstance(atom, Literal)
    return np.asarray(atom.val)


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_JAX = os.path.dirname(os.path.abspath(jax.__file__))
_PYTHON = os.path.dirname(os.path.abspath(os.__file__))


@functools.lru_cache(maxsize=4096)
def is_kernel_file(file_name: str) -> bool:
    """Whether a stack frame's file is a kernel's: none of the emulator's, JAX's or Python's own."""
    # With the separator, or a kernel in `emu_kernels/` beside this package would pass for the
    # emulator's. `<` begins names that are no file, such as `<string>`.
    others = _HERE + os.sep, _JAX + os.sep, "<"
    # Beside the standard library, of which `functools` calls properties, stands what is installed.
    is_installed = "site-packages" in file_name
    is_python = file_name.startswith(_PYTHON + os.sep) and not is_installed
    return not (file_name.startswith(others) or is_python)


def location(eqn: Equation) -> str:
    """`file.py:line` of the kernel that wrote `eqn`."""
    traceback = eqn.source_info.traceback
    frames = traceback.frames if traceback else ()
    for frame in frames:  # innermost first
        if is_kernel_file(frame.file_name):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    return "unknown line"


def line(eqn: Equation) -> Hashable:
    """What tells lines of kernels apart; it takes a tenth of the time that `location` does.

    Equal where the same instruction of the same Python function wrote both equations.
    """
    traceback = eqn.source_info.traceback
    if traceback is None:
        return None
    codes, instructions = traceback.raw_frames()
    for code, instruction in zip(codes, instructions, strict=True):
        if is_kernel_file(code.co_filename):
            return code, instruction
    return None


def caller(past: Sequence[str] = ()) -> str:
    """`file.py:line` of the nearest frame on the stack that belongs to a kernel.

    Args:
      past: folders whose files are passed by too, for what their own callers gave.
    """
    frame = sys._getframe(1)
    folders = tuple(folder + os.sep for folder in past)
    # Outwards past JAX and the emulator, to the first file of a kernel's author.
    while frame is not None:
        name = frame.f_code.co_filename
        if is_kernel_file(name) and not name.startswith(folders):
            return f"{os.path.basename(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown line"


def result_aval(shape: tuple[int, ...], dtype: Any, operands: tuple[Any, ...]) -> Any:
    """An abstract value that varies over every mesh axis any operand varies over.

    A result that copied one operand's varying axes only would let `out_specs=P()` return one
    rank's data without a word.
    """
    varying: frozenset[str] = frozenset()
    like = None
    for aval in operands:
        if not hasattr(aval, "manual_axis_type"):
            continue
        own = aval.manual_axis_type.varying
        if own and like is None:
            like = aval
        # Only the axes are joined: mesh and type are those of any operand that varies.
        varying |= own
    if like is None:
        return ShapedArray(shape, dtype)
    unsplit = PartitionSpec(*[None] * len(shape))
    sharding = NamedSharding(like.sharding.mesh, unsplit)
    axis_type = type(like.manual_axis_type)(varying=varying)
    return ShapedArray(
        shape,
        dtype,
        sharding=sharding,
        manual_axis_type=axis_type,  # type: ignore
    )


__all__ = [
    "Atom",
    "Aval",
    "Body",
    "Equation",
    "IDENTITIES",
    "Primitive",
    "Scan",
    "VIEWS",
    "Var",
    "body",
    "branches",
    "call",
    "caller",
    "line",
    "location",
    "scan",
    "with_inner",
    "with_params",
]
