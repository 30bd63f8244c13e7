"""`rearrange` of a view: `"p (a b) c -> p c a b"`, or the same as tuples of names."""

import math
from typing import TypeAlias

from emu.errors import WrongShape
from emu.trainium.nki.handles import Handle

Side: TypeAlias = "list[tuple[str, ...]]"


def side(text: "str | tuple[str | tuple[str, ...], ...]") -> Side:
    """One side of the arrow: for each dimension the names that it is made of."""
    if not isinstance(text, str):
        return [(part,) if isinstance(part, str) else tuple(part) for part in text]
    groups: Side = []
    inner: list[str] | None = None
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            inner = []
        elif word == ")":
            groups.append(tuple(inner or ()))
            inner = None
        elif inner is None:
            groups.append((word,))
        else:
            inner.append(word)
    return groups


def rearrange(
    handle: Handle,
    *patterns: "str | tuple[str | tuple[str, ...], ...] | dict[str, int]",
    **sizes: int,
) -> Handle:
    """Dimensions split, permuted and merged by their names."""
    known = dict(sizes)
    texts: list[str | tuple[str | tuple[str, ...], ...]] = []
    for pattern in patterns:
        if isinstance(pattern, dict):
            known.update(pattern)
        elif isinstance(pattern, str) and "->" in pattern:
            texts.extend(pattern.split("->"))
        else:
            texts.append(pattern)
    if len(texts) != 2:
        raise WrongShape(
            f"nki: rearrange takes a source and a destination pattern, got {texts}"
        )
    source, destination = side(texts[0]), side(texts[1])
    names = [name for group in source for name in group]
    if len(source) != handle.ndim or sorted(names) != sorted(sum(destination, ())):
        raise WrongShape(f"nki: rearrange of {handle!r} by {texts[0]} -> {texts[1]}")
    for group, size in zip(source, handle.shape, strict=True):
        free = [name for name in group if name not in known]
        rest = math.prod(known[name] for name in group if name in known)
        if len(free) > 1 or size % rest:
            raise WrongShape(
                f"nki: rearrange needs the sizes of {free or group} in {size}"
            )
        if free:
            known[free[0]] = size // rest
    cut = handle.reshape(tuple(known[name] for name in names))
    order = [names.index(name) for group in destination for name in group]
    turned = cut.permute(tuple(order))
    return turned.reshape(
        tuple(math.prod(known[name] for name in group) for group in destination)
    )
