"""Tensors that loops make anew: which belong together, and which families no loop goes through.

While a kernel is rolled, all tensors that a loop makes at one line are one family. Afterwards a
family falls apart again into the parts that no access goes across: a tile of an iteration that was
not rolled is a tensor of its own, and two tiles that iterations use in turn are two families.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence

from emu.errors import EmulationError
from emu.trainium.nki.tree import Affine, Node, Operation, Tensor, walk


def slot(tensor: Tensor) -> Hashable:
    """What the tensors of one family have in common."""
    return (
        id(tensor.place),
        tensor.shape,
        tensor.dtype,
        tensor.space,
        tensor.bank,
        tensor.block,
    )


@dataclasses.dataclass(eq=False)
class Use:
    """That an operand, or an output, is this member of that family."""

    tensor: Tensor
    member: tuple[Affine, ...]


def split(
    nodes: list[Node],
    made: Mapping[Tensor, int],
    outputs: Mapping[Tensor, tuple[Tensor, tuple[int, ...]]],
) -> dict[Tensor, Tensor]:
    """Takes families apart in a tree, in place.

    Args:
      nodes: the tree.
      made: of each family how many of its first block dimensions loops have made.
      outputs: of each tensor that the kernel returns, its family and which member of it.

    Returns:
      Of each output the tensor that it is in the tree.
    """
    uses: dict[Tensor, list[Use]] = {}
    operands: list[tuple[Operation, list[Use | None]]] = []
    for operation, _ in walk(nodes):
        found: list[Use | None] = []
        for part in (*operation.writes, *operation.reads):
            use = None
            if not isinstance(part, Affine) and part.tensor in made:
                use = Use(part.tensor, part.member)
                uses.setdefault(part.tensor, []).append(use)
            found.append(use)
        if any(found):
            operands.append((operation, found))
    returned: dict[Tensor, Use] = {}
    for output, (tensor, member) in outputs.items():
        use = Use(tensor, tuple(Affine(index) for index in member))
        returned[output] = use
        if tensor in made:
            uses.setdefault(tensor, []).append(use)
    for tensor, its_uses in uses.items():
        taken_apart(tensor, its_uses, 0, made[tensor])
    for operation, found in operands:
        parts = [
            part
            if use is None or isinstance(part, Affine)
            else dataclasses.replace(part, tensor=use.tensor, member=use.member)
            for part, use in zip(
                (*operation.writes, *operation.reads), found, strict=True
            )
        ]
        count = len(operation.writes)
        operation.writes = tuple(
            part for part in parts[:count] if not isinstance(part, Affine)
        )
        operation.reads = tuple(parts[count:])
    for output, use in returned.items():
        if use.member:
            raise EmulationError(
                f"nki: the kernel returns one of several tensors that a loop makes, "
                f"{output.name or output.shape}; make it before the loop",
                str(output.place or ""),
            )
    return {output: use.tensor for output, use in returned.items()}


def taken_apart(tensor: Tensor, uses: Sequence[Use], dimension: int, made: int) -> None:
    """Gives uses that share no member, seen along one dimension after another, their own tensors.

    Example: of 9 tiles, tile 0 is used before a loop and tiles 2·i + 1 and 2·i + 2 in its turns:
    one tile and two families of four.
    """
    if dimension == made:
        return
    for part in runs(uses, dimension):
        every = 0
        for use in part:
            every = math.gcd(every, *[rise for _, rise in use.member[dimension].terms])
        every = every or 1
        classes: dict[int, list[Use]] = {}
        for use in part:
            classes.setdefault(use.member[dimension].constant % every, []).append(use)
        for those in classes.values():
            least = min(use.member[dimension].least() for use in those)
            most = max(use.member[dimension].most() for use in those)
            size = (most - least) // every + 1
            kept = () if size == 1 else (size,)
            block = (*tensor.block[:dimension], *kept, *tensor.block[dimension + 1 :])
            own = dataclasses.replace(tensor, block=block)
            for use in those:
                index = use.member[dimension]
                terms = tuple((loop, rise // every) for loop, rise in index.terms)
                member = (
                    (Affine((index.constant - least) // every, terms),) if kept else ()
                )
                use.tensor = own
                use.member = (
                    *use.member[:dimension],
                    *member,
                    *use.member[dimension + 1 :],
                )
            gone = 0 if kept else 1
            taken_apart(own, those, dimension + 1 - gone, made - gone)


def runs(uses: Sequence[Use], dimension: int) -> list[list[Use]]:
    """Uses in groups whose ranges of members do not meet."""
    ordered = sorted(uses, key=lambda use: use.member[dimension].least())
    groups: list[list[Use]] = []
    end = -1
    for use in ordered:
        index = use.member[dimension]
        if index.least() > end:
            groups.append([])
        groups[-1].append(use)
        end = max(end, index.most())
    return groups
