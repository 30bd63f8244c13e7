"""Equal bodies are one: a step that a kernel traces several times is checked and read as one.

A ring's first hop, its loop over hops and its last hop each trace the step over key tiles, and JAX
makes three jaxprs of it. What is found out about a body is kept by the body itself: its checks, its
prices, its plans and what a loop over it does to a core. So each body takes the place of those that
equal it: the same equations on the same variables but for their names, from the same lines of the
kernel. `mul a b` and then `add c a` is `mul x y` and then `add z x`, and is not `add z y`.
"""

from collections.abc import Hashable
from typing import Any

from emu.tracing import jaxpr as jx


def shared(body: jx.Body) -> jx.Body:
    """The body with all equal bodies inside it replaced by the first of them."""
    return _Shared().body(body)


def do_the_same(first: jx.Body, *others: jx.Body) -> bool:
    """Whether bodies are equal but for their constants, which may be other arrays in each."""
    known = _Shared()
    kept = known.body(_of_inputs(first))
    return all(known.body(_of_inputs(body)) is kept for body in others)


def _of_inputs(body: jx.Body) -> jx.Body:
    """The same body with its constants as inputs."""
    inputs = [*body.constvars, *body.invars]
    return jx.Body(inputs, body.outvars, body.eqns, [], [])


class _Shared:
    """The bodies met so far.

    Attributes:
      first: the first of equal bodies, by all that makes them equal.
      done: what each body became.
    """

    def __init__(self) -> None:
        self.first: dict[Hashable, jx.Body] = {}
        self.done: dict[jx.Body, jx.Body] = {}

    def body(self, body: jx.Body) -> jx.Body:
        known = self.done.get(body)
        if known is None:
            # Those inside come first: bodies around them are equal only if they hold the same ones.
            eqns = [jx.with_inner(eqn, self.body) for eqn in body.eqns]
            own = jx.Body(body.invars, body.outvars, eqns, body.constvars, body.consts)
            known = self.done[body] = self.first.setdefault(_form(own), own)
        return known


def _form(body: jx.Body) -> Hashable:
    """All that makes a body what it is."""
    numbers: dict[int, int] = {}

    def atom(one: jx.Atom) -> Hashable:
        if jx.is_literal(one):
            value = jx.literal_value(one)
            return "literal", value.shape, value.dtype, value.tobytes()
        # In the order met: the third variable of one body stands for the third of the other.
        number = numbers.setdefault(id(one), len(numbers))
        return number, one.aval.shape, one.aval.dtype

    constants = [(atom(own), id(const)) for own, const in _constants(body)]
    inputs = [atom(own) for own in body.invars]
    equations: list[Hashable] = []
    for eqn in body.eqns:
        operands = tuple(map(atom, eqn.invars))
        results = tuple(map(atom, eqn.outvars))
        params = tuple([(name, _param(own)) for name, own in eqn.params.items()])
        line = jx.line(eqn)
        equations.append((eqn.primitive, operands, results, params, line))
    outputs = [atom(own) for own in body.outvars]
    return tuple(constants), tuple(inputs), tuple(equations), tuple(outputs)


def _constants(body: jx.Body) -> list[tuple[jx.Atom, Any]]:
    return list(zip(body.constvars, body.consts, strict=True))


def _param(value: Any) -> Hashable:
    """What a parameter is compared by."""
    try:
        hash(value)
    except TypeError:
        # Equal to itself alone.
        return id(value)
    # 1, 1.0 and True are equal, and -0.0 equals 0.0.
    return type(value), value, repr(value) if isinstance(value, float) else None


__all__ = ["shared"]
