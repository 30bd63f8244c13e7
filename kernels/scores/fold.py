"""What attention does with scores and values once they are there, in the form that machines take.

A *monoid* (`partial`, `merge`, `finish`) says what one key contributes, how two contributions are
joined, and what is made of all of them. Machines do not join keys one by one: they take a tile of
them at once. What lets them is that every component of the state is one of three kinds, which
reading the monoid finds out:

    kind      of all keys k                                  softmax
    greatest  G = max x(k)                                   the largest score
    a sum     sum of c(k) · w(x(k), G)                       of weights exp(x(k) - G)
    values    sum of c(k) · w(x(k), G) · v(k)                of weighted values

When a later tile raises G to G', what was summed before is multiplied by the same w(G, G'): of
softmax that is exp(G - G'). Keys with scores [1, 3 | 5, 4] in two tiles:

    tile      G    sum
    [1, 3]    3    e^-2 + 1 = 1.135
    [5, 4]    5    1.135 · e^(3 - 5) + 1 + e^-1 = 1.522

A monoid without a greatest, such as that of sigmoid attention, has plain sums, of c(k) alone. Of a
query that attends to nothing they are 0, and `finish` is of these zeros; where there is a greatest,
which of nothing there is not, the output is 0.
"""

import dataclasses

from emu.lower import Elementwise, Input, Operation, Slot

WEIGHT_INPUTS = (
    Input("own", frozenset({"q", "k"}), "float32"),
    Input("greatest", frozenset({"q"}), "float32"),
)
"""Arguments of a weight: of one key, and of all seen so far. Falling, `own` is the old greatest."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """A component of the state to which every key adds.

    Attributes:
      name: of the component, or its path in the user's state.
      coefficient: c, of the arguments `kernels.scores.form.SCORE_INPUTS`, the score being the
        one after the variant's score function; None: 1.
    """

    name: str
    coefficient: Elementwise | None


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """A monoid, read.

    Attributes:
      name: of the variant.
      greatest: name of the component that is a maximum; None: there is none.
      exponent: x, of `SCORE_INPUTS`; None: the score itself, or there is no greatest.
      weight: w, of `WEIGHT_INPUTS`; None: there is no greatest.
      sums: those of one number a query.
      values: the sum of values.
      finish: what the output's feature d is, of `values`, of the greatest and the sums, in the
        order of `components`, and of `b`, `h`, `q` and `d`.
    """

    name: str
    greatest: str | None
    exponent: Elementwise | None
    weight: Elementwise | None
    sums: tuple[Sum, ...]
    values: Sum
    finish: Elementwise

    @property
    def components(self) -> tuple[str, ...]:
        """Names in the order in which `finish` takes them: values, the greatest, the sums."""
        greatest = () if self.greatest is None else (self.greatest,)
        return (self.values.name, *greatest, *(x.name for x in self.sums))

    @property
    def weighs_as_softmax(self) -> bool:
        """Whether w is exp(own - greatest), which machines have an instruction for."""
        if self.weight is None:
            return False
        operations = self.weight.operations
        names = tuple(x.name for x in operations)
        if names != ("sub", "exp") or not isinstance(self.weight.result, Slot):
            return False
        difference: Operation = operations[0]
        return difference.operands == (Slot(0), Slot(1))

    @property
    def is_softmax(self) -> bool:
        """Whether all but `finish` is softmax's: one sum, every weight as it is."""
        return self.tells_log_sum_exp and self.values.coefficient is None

    @property
    def divides_by_sum(self) -> bool:
        """Whether `finish` is softmax's: the values over the one sum."""
        operations = self.finish.operations
        if len(self.sums) != 1 or len(operations) != 1:
            return False
        (division,) = operations
        total = Slot(self.components.index(self.sums[0].name))
        return division.name == "div" and division.operands == (Slot(0), total)

    @property
    def scales_values(self) -> bool:
        """Whether `finish` is the values times a number that all features of a query share.

        Then it gives the same whether values are multiplied by a matrix before it or after. So is
        a softmax's division by its sum, and not a gate of each feature, nor a square of the values.
        """
        function = self.finish
        # Slots that are the values times such a number: first the values themselves.
        scaled = {0}
        for operation in function.operations:
            of_features = [x for x in operation.operands if "d" in function.axes_of(x)]
            if not of_features:
                continue
            # Of a product either factor may be the values, of a quotient the first operand.
            divides = operation.name == "div" and operation.operands[0] in of_features
            (first, *others) = of_features
            is_scaled = isinstance(first, Slot) and first.index in scaled
            if others or not is_scaled or not (operation.name == "mul" or divides):
                return False
            scaled.add(operation.result)
        return isinstance(function.result, Slot) and function.result.index in scaled

    @property
    def tells_log_sum_exp(self) -> bool:
        """Whether its sum is that of the scores' exponentials, relative to the greatest."""
        plain = [x.coefficient for x in self.sums] == [None]
        return self.weighs_as_softmax and self.exponent is None and plain


def finish_inputs(components: tuple[str, ...]) -> tuple[Input, ...]:
    """Arguments of `Fold.finish`: the components, of which the first has features, and indices.

    Args:
      components: as `Fold.components` names them.
    """
    of_query = frozenset({"q"})
    values, *others = components
    return (
        Input(values, frozenset({"q", "d"}), "float32"),
        *(Input(name, of_query, "float32") for name in others),
        Input("b", frozenset(), "int32"),
        Input("h", frozenset(), "int32"),
        Input("q", of_query, "int32"),
        Input("d", frozenset({"d"}), "int32"),
    )


__all__ = ["Fold", "Sum", "WEIGHT_INPUTS", "finish_inputs"]
