"""An instruction's parameters, checked where a kernel gives them, as its meaning declares them.

A parameter is fixed when the kernel is traced: a number, a word, a few of either. What it may be is
its annotation. Of `def iota(dst, offset, *, steps: tuple[int, ...], multiplier: int = 0)` the call
`iota(dst, 0, steps=[1], multiplier=np.int64(4))` is given as `(1,)` and `4`, and `multiplier=4.0`
is refused.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from emu import given

LONGEST = 2**62

Check: TypeAlias = Callable[[str, Any], Any]
"""`(what, value)` to the value in its plain form, or an error that says what it must be."""


def _whole(what: str, value: Any) -> int:
    # In the meaning it meets JAX's 32-bit integers.
    return given.whole(what, value, *given.INT32)


def _wholes(what: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        given.refuse(
            f"{what} is {given.told(value)}, must be whole numbers in brackets"
        )
    # A shape may be long in HBM; what counts steps or places checks its own range.
    if not all(given.is_whole(each, -LONGEST, LONGEST) for each in value):
        given.refuse(f"{what} is {given.told(value)}, must be whole numbers")
    return tuple(int(each) for each in value)


def _names(what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, tuple | list):
        given.refuse(f"{what} is {given.told(value)}, must be names in brackets")
    return tuple(given.name(what, each) for each in value)


_CHECKS: Mapping[Any, Check] = {
    bool: given.flag,
    int: _whole,
    float: given.number,
    str: given.name,
    tuple[int, ...]: _wholes,
    tuple[str, ...]: _names,
}


@dataclasses.dataclass(frozen=True)
class _Declared:
    """The parameters of a meaning.

    Attributes:
      checks: of each, by name; None where anything goes.
      needed: those without a default.
      takes_more: whether it leaves others to its cost rule.
    """

    checks: Mapping[str, Check | None]
    needed: tuple[str, ...]
    takes_more: bool


@functools.cache
def _declared(meaning: Callable[..., Any]) -> _Declared:
    checks: dict[str, Check | None] = {}
    needed: list[str] = []
    takes_more = False
    for name, parameter in inspect.signature(meaning).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_more = True
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            checks[name] = _check_of(parameter.annotation)
            if parameter.default is inspect.Parameter.empty:
                needed.append(name)
    return _Declared(checks, tuple(needed), takes_more)


def _check_of(annotation: Any) -> Check | None:
    if typing.get_origin(annotation) is not types.UnionType:
        return _CHECKS.get(annotation)
    # `str | None`: there may be none.
    kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    check = _CHECKS.get(kinds[0]) if len(kinds) == 1 else None
    if check is None:
        return None

    def unless_none(what: str, value: Any) -> Any:
        return None if value is None else check(what, value)

    return unless_none


def checked(
    name: str, meaning: Callable[..., Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters of instruction `name` in their plain forms.

    Raises:
      LimitExceeded: one that the meaning does not have, one left out, or one of another kind; with
        the kernel's line.
    """
    declared = _declared(meaning)
    for parameter in declared.needed:
        if parameter not in params:
            given.refuse(f"{name}: {parameter} is missing")
    plain: dict[str, Any] = {}
    for parameter, value in params.items():
        if parameter not in declared.checks and not declared.takes_more:
            known = ", ".join(declared.checks) or "none"
            given.refuse(f"{name}: no parameter {parameter!r}, has {known}")
        check = declared.checks.get(parameter)
        what = f"{name}: {parameter}"
        plain[parameter] = value if check is None else check(what, value)
    return plain


__all__ = ["checked"]
