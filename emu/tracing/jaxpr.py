"""The only contact with JAX's internals: what an equation holds, on every JAX supported.

JAX 0.12 dropped `num_consts` and `num_carry` from `scan` and no longer wraps sub-jaxprs in
`ClosedJaxpr`; nothing outside this file needs to know.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
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
    "remat",
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
        atoms = [*(v for eqn in self.eqns for v in eqn.invars), *self.outvars]
        return [v for v in atoms if is_literal(v)]

    @functools.cached_property
    def ids(self) -> tuple[list[int], list[int]]:
        """The ids of its inputs and of its outputs."""
        return [id(v) for v in self.invars], [id(v) for v in self.outvars]

    @functools.cached_property
    def steps(self) -> list[tuple[Equation, list[int], list[int]]]:
        """Each equation with the ids of its operands and of its results."""
        return [
            (e, [id(v) for v in e.invars], [id(v) for v in e.outvars])
            for e in self.eqns
        ]


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


def trace(fn: Callable, avals: list[Any], mesh: Mapping[str, int]) -> Body:
    """Traces `fn`, written for one core, in program order and with the mesh's axis names bound.

    Args:
      fn: kernel of one core.
      avals: pytrees of `jax.ShapeDtypeStruct`, the per-core arguments.
      mesh: axis name to size.
    """
    with in_order():
        return body(jax.make_jaxpr(fn, axis_env=list(mesh.items()))(*avals))


@functools.lru_cache(maxsize=4096)
def body(jaxpr: Any) -> Body:
    """The `Body` of a `Jaxpr` or `ClosedJaxpr`."""
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    consts = list(getattr(jaxpr, "consts", ()) or ())
    return Body(
        list(inner.invars),
        list(inner.outvars),
        list(inner.eqns),
        list(inner.constvars),
        consts,
    )


def scan(eqn: Equation) -> Scan:
    """Reads a `scan` equation."""
    p = eqn.params
    if "num_carry" in p:
        consts, carry = p["num_consts"], p["num_carry"]
    else:
        consts, carry = (len(part) for part in p["ft_in"].unpack()[:2])
    return Scan(body(p["jaxpr"]), consts, carry, p["length"], p["reverse"])


def branches(eqn: Equation) -> list[Body]:
    """The branches of a `cond` equation; operand 0 is the index."""
    return [body(b) for b in eqn.params["branches"]]


def call(eqn: Equation) -> Body | None:
    """The body of an equation that only calls, or None."""
    if eqn.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in eqn.params:
            return body(eqn.params[key])
    return None


def inner(eqn: Equation) -> list[Body]:
    """The bodies inside an equation: of a loop, of a call, or a branch's cases."""
    if eqn.primitive.name == "scan":
        return [scan(eqn).body]
    if eqn.primitive.name == "cond":
        return branches(eqn)
    called = call(eqn)
    return [] if called is None else [called]


@functools.lru_cache(maxsize=4096)
def axes(body: Body) -> frozenset[str]:
    """Mesh axes along which a body asks for its core's index."""
    own = {e.params["axis_name"] for e in body.eqns if e.primitive.name == "axis_index"}
    return frozenset(own).union(*(axes(b) for e in body.eqns for b in inner(e)))


def is_literal(atom: Atom) -> bool:
    return isinstance(atom, Literal)


def literal_value(atom: Atom) -> np.ndarray:
    assert isinstance(atom, Literal)
    return np.asarray(atom.val)


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_JAX = os.path.dirname(os.path.abspath(jax.__file__))


def is_kernel_file(file_name: str) -> bool:
    """Whether a stack frame's file is a kernel's: neither the emulator's nor JAX's own."""
    return not file_name.startswith((_HERE + os.sep, _JAX + os.sep, "<"))


def location(eqn: Equation) -> str:
    """`file.py:line` of the kernel that wrote `eqn`."""
    traceback = eqn.source_info.traceback
    for f in traceback.frames if traceback else ():
        if is_kernel_file(f.file_name):
            return f"{os.path.basename(f.file_name)}:{f.line_num}"
    return "unknown line"


def result_aval(shape: tuple[int, ...], dtype: Any, operands: tuple[Any, ...]) -> Any:
    """An abstract value that varies over every mesh axis any operand varies over.

    A result that copied one operand's varying axes only would let `out_specs=P()` return one
    rank's data without a word.
    """
    marked = [a for a in operands if hasattr(a, "manual_axis_type")]
    varying = frozenset().union(*(a.manual_axis_type.varying for a in marked))
    if not varying:
        return ShapedArray(shape, dtype)
    like = next(a for a in marked if a.manual_axis_type.varying)
    whole = NamedSharding(like.sharding.mesh, PartitionSpec(*[None] * len(shape)))
    kind = type(like.manual_axis_type)(varying=varying)
    return ShapedArray(shape, dtype, sharding=whole, manual_axis_type=kind)  # type: ignore


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
    "location",
    "scan",
]
