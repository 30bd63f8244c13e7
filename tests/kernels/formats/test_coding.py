"""Formats: what numbers become, against other libraries' casts and rounding worked out by hand."""

import jax
import ml_dtypes
import numpy as np
import pytest

from kernels.formats.coding import as_held, coded, numbers
from kernels.formats.formats import FORMATS, of_activations

CODED = [held for held in FORMATS.values() if held.is_coded]


def matrix(rows: int = 70, columns: int = 9) -> np.ndarray:
    rng = np.random.default_rng(0)
    # Rows of very different sizes, so that who shares a scale is seen.
    sizes = np.exp2(rng.integers(-9, 9, (rows, 1)))
    return (rng.standard_normal((rows, columns)) * sizes).astype(np.float32)


@pytest.mark.parametrize("held", CODED, ids=lambda held: held.name)
def test_no_number_is_further_off_than_half_a_step_of_its_block(held) -> None:
    given = matrix()
    found = as_held(given, held)
    down, across = held.block
    rows, columns = given.shape
    for top in range(0, rows, down or rows):
        for left in range(0, columns, across or columns):
            block = np.s_[top : top + (down or rows), left : left + (across or columns)]
            largest = np.abs(given[block]).max()
            if held.element.startswith("int"):
                allowed = largest / held.greatest / 2
            else:
                # Half of the last bit of the largest, which a power of two may have doubled.
                bits = ml_dtypes.finfo(held.element).nmant
                allowed = np.exp2(np.floor(np.log2(largest)) - bits - 1) * 2
            error = np.abs(found[block] - given[block]).max()
            assert error <= allowed * (1 + 1e-6)
            # The block's own, not the matrix's: the largest keeps its leading bits.
            assert error < largest / 5


@pytest.mark.parametrize("held", CODED, ids=lambda held: held.name)
def test_no_matrices_have_no_codes(held) -> None:
    """As a cache without tokens."""
    found = coded(np.zeros((0, 40, 3), np.float32), held)
    assert found.scales is not None
    assert found.elements.shape == (0, 40, 3)
    assert found.scales.shape == (0, *held.blocks(40, 3))


@pytest.mark.parametrize("held", FORMATS.values(), ids=lambda held: held.name)
def test_a_compiled_program_rounds_too(held) -> None:
    """XLA could leave out a conversion to a narrow format and back."""
    compiled = jax.jit(as_held, static_argnums=1)(matrix(), held)
    np.testing.assert_array_equal(compiled, as_held(matrix(), held))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_wide_formats_are_casts(name: str) -> None:
    given = matrix()
    found = coded(given, FORMATS[name])
    assert found.scales is None
    np.testing.assert_array_equal(found.elements, given.astype(name))


def test_scale_of_a_column_takes_its_largest_to_the_formats() -> None:
    given = np.array([[3.5, 0.0], [-1.75, 0.0]], np.float32)
    found = coded(given, FORMATS["fp8"])
    assert found.scales is not None
    np.testing.assert_array_equal(found.scales, [[3.5 / 448, 1]])
    np.testing.assert_array_equal(
        np.asarray(found.elements, np.float32), [[448, 0], [-224, 0]]
    )


def test_integers_round_to_even() -> None:
    # The largest is 7 steps of 1.
    given = np.array([[7.0], [2.5], [-3.5], [0.4]], np.float32)
    found = coded(given, FORMATS["int4"])
    np.testing.assert_array_equal(found.elements[:, 0], [7, 2, -4, 0])


def test_blocks_reach_over_rows_and_columns_and_end_where_the_matrix_does() -> None:
    given = np.ones((130, 200), np.float32)
    given[129, 199] = 448
    found = coded(given, FORMATS["fp8_block"])
    assert found.scales is not None
    assert found.scales.shape == (2, 2)
    np.testing.assert_allclose(found.scales, [[1 / 448, 1 / 448], [1 / 448, 1]])
    np.testing.assert_array_equal(numbers(found, FORMATS["fp8_block"]), given)


def test_several_matrices_are_each_coded_alone() -> None:
    first, second = matrix(), matrix()[::-1]
    for held in CODED:
        together = as_held(np.stack([first, second]), held)
        np.testing.assert_array_equal(together[0], as_held(first, held))
        np.testing.assert_array_equal(together[1], as_held(second, held))


def test_numbers_that_are_in_mxfp4_stay() -> None:
    """A published checkpoint's, of any scales: groups whose largest element is 6, 4 or 3."""
    rng = np.random.default_rng(0)
    elements = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    for most in 8, 7, 6:
        drawn = rng.choice(elements[:most], (64, 9)) * rng.choice([-1, 1], (64, 9))
        powers = np.exp2(rng.integers(-60, 60, (2, 9)))
        given = (drawn * np.repeat(powers, 32, axis=0)).astype(np.float32)
        np.testing.assert_array_equal(as_held(given, FORMATS["mxfp4"]), given)


def test_a_scale_of_mxfp4_is_doubled_where_the_largest_would_saturate() -> None:
    """6.5 of the scale 1 would become 6, of the scale 2 it is 3.25, which rounds to 3."""
    given = np.zeros((32, 2), np.float32)
    given[:2] = [[6.5, 6.0], [0.5, 0.5]]
    found = coded(given, FORMATS["mxfp4"])
    np.testing.assert_array_equal(np.asarray(found.scales)[0], [128, 127])
    np.testing.assert_array_equal(
        np.asarray(found.elements, np.float32)[:2], [[3, 6], [0, 0.5]]
    )


def test_bytes() -> None:
    # Each as a sum of elements and scales worked out by hand.
    assert FORMATS["bfloat16"].held_bytes(4096, 14336) == 112 * 2**20
    assert FORMATS["mxfp8"].held_bytes(4096, 14336) == 57.75 * 2**20
    assert FORMATS["mxfp4"].held_bytes(4096, 14336) == 29.75 * 2**20
    assert FORMATS["fp8"].held_bytes(4096, 14336) == 56 * 2**20 + 14336 * 4
    assert FORMATS["fp8_block"].held_bytes(4096, 14336) == 56 * 2**20 + 32 * 112 * 4
    assert FORMATS["int4"].held_bytes(64, 3) == 32 * 3 + 2 * 3 * 4


@pytest.mark.parametrize("held", CODED, ids=lambda held: held.name)
def test_bytes_are_those_of_what_is_coded(held) -> None:
    found = coded(matrix(64, 10), held)
    assert found.scales is not None
    elements_bytes = found.elements.size * held.element_bits // 8
    assert held.held_bytes(64, 10) == elements_bytes + found.scales.nbytes


@pytest.mark.parametrize("name", [held.name for held in CODED])
def test_a_tokens_activations_do_not_depend_on_other_tokens(name: str) -> None:
    held = of_activations(FORMATS[name])
    given = matrix(256, 6)
    together = as_held(given, held)
    for token in range(6):
        alone = as_held(given[:, token : token + 1], held)
        np.testing.assert_array_equal(together[:, token : token + 1], alone)


def test_a_quotient_in_the_middle_goes_to_the_even_code() -> None:
    """-0.890625 over a scale of 2.375 / 448 is -168.0000063, in float32 -168: between 160 and 176.

    Its product with the scale's inverse would be the next float32, and so 176.
    """
    column = np.array([[-0.890625], [2.375]], np.float32)
    assert np.float32(column[0, 0]) / (np.float32(2.375) / np.float32(448)) == -168
    found = coded(column, FORMATS["fp8"])
    np.testing.assert_array_equal(
        np.asarray(found.elements, np.float32)[:, 0], [-160, 448]
    )
