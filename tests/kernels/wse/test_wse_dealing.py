"""Dimensions of arrays in another order, by their names."""

import numpy as np
import pytest

from kernels.wse.decode.dealing import arranged, in_blocks, sliced


def test_slices_end_with_blocks() -> None:
    """Blocks of 8 in slices of 3: 3, 3 and 2 features, and of the last block of 5 two slices."""
    x = np.stack([np.arange(1, 22), np.arange(101, 122)])
    first = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10, 11, 12, 13, 14, 15, 16, 0]
    wanted = [*first, 17, 18, 19, 20, 21, 0]
    found = in_blocks(x, 1, 8, 3)
    np.testing.assert_array_equal(found[0], wanted)
    assert found.shape == (2, 3 * sliced(21, 8, 3))
    np.testing.assert_array_equal(in_blocks(x.T, 0, 8, 3), found.T)
    assert in_blocks(x, 1, None, 3) is x


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
