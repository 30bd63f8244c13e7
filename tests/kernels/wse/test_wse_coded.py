"""A layer's matrices in codes: what each PE holds, and that it computes with just that."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from emu import Program
from emu.wse import WSE3
from emu.wse.pe.nibbles import pack_nibbles, widen_nibbles
from emu.wse.placement.regions import DoesNotFit
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.wse.decode import layout
from kernels.wse.decode.coded import coded_gemv, matrix_cycles, scales_codes
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import Held, MatrixTile, scale_of
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.plan import plan_wafer
from models.catalogue import QWEN3_32B

CODED = [held.name for held in FORMATS.values() if held.is_coded]
WAFER = WSE3.at()


def layer_map(rows: int = 6, parts: int = 4, rotary_dim: int | None = None) -> LayerMap:
    """Residual slices of 24, hidden ones of 6 or so: blocks of 32 end within them."""
    return LayerMap(
        hidden=144,
        ffn=74,
        heads=4,
        kv_heads=2,
        head_dim=48,
        eps=1e-5,
        qk_norm=False,
        context=8,
        rows=rows,
        parts=parts,
        form=DecodeForm(rotary_dim=rotary_dim),
    )


def layer_arrays(layer: LayerMap) -> dict[str, np.ndarray]:
    """Two layers' weights, rows and columns of very different sizes."""
    rng = np.random.default_rng(0)
    hidden, ffn = layer.hidden, layer.ffn
    queries, keys = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    shapes = {
        "wq": (hidden, queries),
        "wk": (hidden, keys),
        "wv": (hidden, keys),
        "wo": (queries, hidden),
        "w_gate": (hidden, ffn),
        "w_up": (hidden, ffn),
        "w_down": (ffn, hidden),
    }
    found = {}
    for name, (down, across) in shapes.items():
        sizes = np.exp2(rng.integers(-6, 6, (2, down, 1)))
        found[name] = np.float32(rng.standard_normal((2, down, across)) * sizes)
    for name in ("attn_norm", "mlp_norm"):
        found[name] = np.ones((2, hidden), np.float32)
    return found


def numbers_of(codes: np.ndarray, scales: np.ndarray, tile: MatrixTile) -> np.ndarray:
    """What a PE's codes stand for, `[..., rows, columns]`."""
    wide = codes.astype(np.float32)
    down, across = scales.shape[-2:]
    by_row = np.repeat(scales.astype(np.float32), tile.rows // down, axis=-2)
    return wide * np.repeat(by_row, tile.columns // across, axis=-1)


def unpacked(words: np.ndarray, tile: MatrixTile, element: str) -> np.ndarray:
    """Codes of 4 bits as the PE's instruction makes them wide."""
    flat = jnp.asarray(words.reshape(-1, words.shape[-1]))
    dst = jnp.zeros((flat.shape[0], tile.columns), jnp.float32)
    wide = np.asarray(widen_nibbles(dst, flat, codes=element))
    return wide.reshape(*words.shape[:-1], tile.columns)


# Blocks of 32 rows and of 128 x 128, words of four codes, and features of which a part turns.
CHEAP_TILES = (("mxfp4", None), ("fp8_block", 32), ("fp8", None))
CHEAP_PRODUCTS = (("fp8", 48), ("mxfp8", 32), ("mxfp4", 1))


@pytest.mark.parametrize(
    ("name", "rotary_dim"),
    [
        case if case in CHEAP_TILES else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(CODED, (None, 32))
    ],
)
def test_pes_hold_just_the_numbers_of_the_whole_matrix(name, rotary_dim) -> None:
    held = FORMATS[name]
    plain = layer_map(rotary_dim=rotary_dim)
    layer = dataclasses.replace(plain, held=Held(held))
    arrays = layer_arrays(plain)
    of_numbers = dict(arrays)
    for matrix in (*layout.OF_HEADS, *layout.OF_MLP):
        of_numbers[matrix] = np.asarray(as_held(arrays[matrix], held))
    wanted = layout.layer_weights(of_numbers, plain)
    found = layout.layer_weights(arrays, layer)
    shapes, dtypes = layer.weight_shapes(), layer.weight_dtypes()
    assert set(found) == set(shapes)
    for matrix, tile in layer.matrices.items():
        codes, scales = found[matrix], found[scale_of(matrix)]
        for one, tiles in ((matrix, codes), (scale_of(matrix), scales)):
            assert tiles.shape == (2, layer.rows, layer.cols, *shapes[one])
            assert tiles.dtype == jnp.dtype(dtypes[one])
        if held.element_bits == 4:
            codes = unpacked(codes, tile, held.element)
        np.testing.assert_array_equal(numbers_of(codes, scales, tile), wanted[matrix])


def test_slices_end_with_blocks_where_columns_suffice() -> None:
    """74 hidden features on 16 columns, 5 each: blocks of 32 take 7, 7 and 2 of them."""
    held = FORMATS["mxfp8"]
    layer = dataclasses.replace(layer_map(parts=8), held=Held(held))
    assert (layer.cols, layer.width, layer.width_cut) == (16, 5, 32)
    arrays = layer_arrays(layer)
    tiles = layout.layer_weights(arrays, layer)
    kept = [35 * (feature // 32) + feature % 32 for feature in range(74)]
    numbers = {}
    for name in ("gate_up", "down"):
        tile = layer.matrices[name]
        assert tile.scales(held)[0] == {"gate_up": 3, "down": 1}[name]
        numbers[name] = numbers_of(tiles[name], tiles[scale_of(name)], tile)
    # layers, columns, features of one, rows, outputs of one
    down = np.transpose(numbers["down"], (0, 2, 3, 1, 4)).reshape(2, 80, 144)
    wanted = np.asarray(as_held(arrays["w_down"], held))
    np.testing.assert_array_equal(down[:, kept], wanted)
    both = np.split(numbers["gate_up"], 2, axis=-1)
    for name, half in zip(("w_gate", "w_up"), both, strict=True):
        wide = np.transpose(half, (0, 1, 3, 2, 4)).reshape(2, 144, 80)
        wanted = np.asarray(as_held(arrays[name], held))
        np.testing.assert_array_equal(wide[..., kept], wanted)


def test_bytes_of_a_pe() -> None:
    """Of MXFP8 in slices of 32 rows, a byte a code and one for 32; in fp8, four for a column."""
    wide = layer_map(rows=9, parts=1)
    # Of 74 hidden features each of two columns has 37, and 40 in whole shares of nine rows.
    tile = wide.matrices["gate_up"]
    assert (tile.rows, tile.columns) == (16, 2 * 40)

    def nbytes(held: str) -> int:
        return dataclasses.replace(wide, held=Held(FORMATS[held])).weight_bytes()

    plain = [(t.rows, t.columns) for t in wide.matrices.values()]
    codes = sum(rows * columns for rows, columns in plain)
    norms = wide.weight_bytes() - 4 * codes
    columns = sum(columns for _, columns in plain)
    assert nbytes("fp8") == norms + codes + 4 * columns
    # Slices of 16 have one scale a column. A half of a head has 24 features, of which 8 share one
    # whichever head and half it is; so have 8 of 40 hidden features.
    qkv, out, gate_up, down = plain
    assert nbytes("mxfp8") == norms + codes + (
        qkv[1] + out[0] // 8 * out[1] + gate_up[1] + down[0] // 8 * down[1]
    )
    words = sum(rows * -(-columns // 4) for rows, columns in plain)
    of_scales = nbytes("mxfp8") - norms - codes
    assert nbytes("mxfp4") == norms + 2 * words + of_scales


def gemv_program(tile: MatrixTile, held, dtype: str) -> Program:
    def kernel(weights, x):
        return coded_gemv(tile, held, weights, "w", x)

    return Program(kernel, {"row": 1}, ((), ()))


PRODUCTS = (
    ("fp8", "bfloat16", 48),
    ("int8", "float32", 48),
    ("mxfp8", "bfloat16", 32),  # sums are scaled
    ("mxfp8", "bfloat16", 4),  # codes are
    ("mxfp8", "float16", 4),  # which has no exponents for it
    ("mxfp4", "bfloat16", 1),
    ("int4", "float16", 16),
    ("fp8_block", "float32", 16),
)


@pytest.mark.parametrize(
    ("name", "dtype", "in_order"),
    [
        case
        if (case[0], case[2]) in CHEAP_PRODUCTS
        else pytest.param(*case, marks=pytest.mark.slow)
        for case in PRODUCTS
    ],
)
def test_products_and_their_cycles(name: str, dtype: str, in_order: int) -> None:
    """Sums are those of the numbers held; the estimate counts what the program does."""
    held = FORMATS[name]
    tile = MatrixTile(96, 24, in_order, 24)
    rng = np.random.default_rng(1)
    alike, across = tile.alike(held)
    down = tile.rows // alike
    if held.element.startswith("int"):
        most = int(held.greatest)
        codes = rng.integers(-most, most + 1, (96, 24)).astype(np.int8)
    else:
        codes = rng.standard_normal((96, 24)).astype(jnp.dtype(held.element))
    exponents = rng.integers(-4, 5, (down, 24 // across))
    scales = np.exp2(exponents).astype(np.float32)
    if held.scale != "float32":
        scales = scales.astype(ml_dtypes.float8_e8m0fnu)
    numbers = numbers_of(codes, scales, tile).astype(np.float64)
    given = codes
    if held.element_bits == 4:
        given = pack_nibbles(codes)
    x = rng.standard_normal(96).astype(jnp.dtype(dtype))
    weights = {"w": jnp.asarray(given), "w_scale": jnp.asarray(scales)}
    program = gemv_program(tile, held, dtype)
    found = np.asarray(program.compiled(weights, jnp.asarray(x)), np.float64)
    terms = np.abs(x.astype(np.float64)[:, None] * numbers).sum(0)
    wanted = x.astype(np.float64) @ numbers
    # 96 terms, each rounded to float32 as it is added.
    assert (np.abs(found.reshape(-1) - wanted) <= 96 * 2.0**-24 * terms).all()

    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    of_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    clock = program.read(WAFER, structs, of_x)
    # Besides, the sums are filled with zeros first.
    before = 4 + 6 + 24 * 4 // 16
    assert clock.end_ticks == pytest.approx(
        before + matrix_cycles(tile, held, dtype, WAFER), abs=len(codes) / 2
    )
    assert scales_codes(tile, held, dtype) == (
        (name, dtype, in_order) in (("mxfp8", "bfloat16", 4), ("mxfp4", "bfloat16", 1))
    )


def test_a_model_that_one_wafer_holds_in_codes_alone() -> None:
    """Qwen3-32B: 64 GB in bfloat16, of which a wafer has 40, and 20 in MXFP4."""
    sizes = QWEN3_32B, 4096, "bfloat16", WAFER
    with pytest.raises(DoesNotFit, match="in bfloat16 needs at least 66,.* 3 wafers"):
        plan_wafer(*sizes, wafers=1)
    plan = plan_wafer(*sizes, held=Held(FORMATS["mxfp4"]))
    assert plan.wafers == 1
    layer, nbytes = plan.layers[0].map, plan.layers[0].bytes
    assert sum(nbytes.values()) <= WAFER.sram_bytes
    # Of a PE's weights nearly all are words of four codes and a byte for 32.
    codes = sum(tile.rows * tile.columns for tile in layer.matrices.values())
    assert 0.5 * codes < nbytes["weights"] < 0.75 * codes
    too_wide = "in bfloat16 with weights in fp8_block needs at least"
    with pytest.raises(DoesNotFit, match=too_wide):
        plan_wafer(*sizes, held=Held(FORMATS["fp8_block"]), wafers=1)
