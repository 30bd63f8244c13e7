"""Dimensions of arrays in another order, by their names."""

import numpy as np
import pytest

from kernels.wse.decode.dealing import arranged


def test_dimensions_are_arranged_by_name() -> None:
    x = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    turned = arranged(x, "layer row col", "col layer row")
    assert turned.shape == (5, 2, 3) and turned[4, 1, 2] == x[1, 2, 4]
    together = arranged(x, "layer row col", "row (col layer)")
    # Of a column's layers the first is that of layer 0.
    assert together.shape == (3, 10) and together[2, 2 * 4 + 1] == x[1, 2, 4]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("layer row", "row layer"), ("a b c", "a b"), ("a b c", "a b d")],
)
def test_names_must_be_those_of_all_dimensions(given: str, wanted: str) -> None:
    with pytest.raises(ValueError, match="must have one name for each"):
        arranged(np.zeros((2, 3, 5)), given, wanted)
