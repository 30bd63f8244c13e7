"""Which results of a function are computed, and so have yet to be rounded, read from its jaxpr.

`emu.numerics.rounded` keeps XLA from computing across an instruction's result. Of data that is only
moved it would make a copy: a load of weights, for which XLA does nothing, would read and write them
all. So a result is followed back through what moves and chooses elements. Where that ends in
operands, in narrower numbers or in what was rounded already, there is nothing left to round.
"""

from emu import numerics
from emu.tracing import jaxpr as jx

# Each of their results' elements is one of an operand's, up to its sign.
MOVES = (
    jx.VIEWS
    | jx.IDENTITIES
    | {
        "abs",
        "all_gather",
        "clamp",
        "concatenate",
        "convert_element_type",
        "dynamic_update_slice",
        "gather",
        "max",
        "min",
        "neg",
        "pad",
        "reduce_max",
        "reduce_min",
        "rev",
        "scatter",
        "select_n",
        "sort",
        "split",
        "top_k",
        "transpose",
    }
)


def unrounded(body: jx.Body) -> tuple[bool, ...]:
    """For each result whether it is float32 or float64 that some operation has computed.

    Of `concatenate(x, rounded(x · y))` that is no, of `transpose(x · y)` yes.
    """
    is_computed: dict[int, bool] = {}

    def of(atom: jx.Atom) -> bool:
        # What no equation gives is an operand, a constant or a literal.
        return is_computed.get(id(atom), False)

    for eqn in body.eqns:
        inside = _inside(eqn)
        for place, result in enumerate(eqn.outvars):
            computed = numerics.is_wide(result.aval.dtype) and not _rounds(eqn)
            if computed and inside is not None:
                computed = inside[place] or any(map(of, eqn.invars))
            elif computed and eqn.primitive.name in MOVES:
                computed = any(map(of, eqn.invars))
            is_computed[id(result)] = computed
    return tuple(map(of, body.outvars))


def _inside(eqn: jx.Equation) -> tuple[bool, ...] | None:
    """The same of the function that an equation calls, if it only calls."""
    called = jx.call(eqn)
    return None if called is None else unrounded(called)


def _rounds(eqn: jx.Equation) -> bool:
    return eqn.params.get("name") == numerics.ROUNDED


__all__ = ["unrounded"]
