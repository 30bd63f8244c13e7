"""Kernels of the timeline as fabric programs: the mesh's values, the timeline's cycles, stepped."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.errors import LimitExceeded
from emu.wse import chain_argmax, copy, reduce, sram_tile
from emu.wse.fabric import ops
from emu.wse.from_kernel import translated
from emu.wse.spaces import Sram
from kernels.latent_heads import LatentHeads
from kernels.moe.routing import Routing
from kernels.moe.wafer import ExpertMlp
from kernels.wse.decode.blocks import gemv, rms_norm
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce
from tests.kernels.wse.stepped import DEVICE, ThreeWays, drawn, layer_data, three_ways

RNG = np.random.default_rng(0)


LATE = 0.001
"""Of a layer on short lines: a root in the middle may hear both sides at once, whose words share
its ramp; the timeline's formulas neglect it, which is a cycle or two."""


def late(found: ThreeWays) -> float:
    """By how much of its cycles the stepper is later than the timeline."""
    return (found.run.cycles - found.timeline_cycles) / found.run.cycles


def draw(*shape: int, dtype: str = "float32") -> jnp.ndarray:
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def norm_program(rows: int, cols: int, dtype: str = "float32") -> Program:
    def kernel(x: Sram, weight: Sram) -> Sram:
        return rms_norm(x, weight, n=5 * rows, eps=1e-5, dtype=dtype)

    return Program(kernel, {"row": rows, "col": cols}, (("row",), ("row",)))


def gemv_program(rows: int, cols: int, axis: str = "row") -> Program:
    def kernel(x: Sram, weight: Sram) -> Sram:
        return all_reduce(gemv(weight, x), axis)

    return Program(kernel, {"row": rows, "col": cols}, (("row",), ("row", "col")))


@pytest.mark.parametrize("path", ["trains", "cycles"])
def test_a_norm_three_ways(path: str) -> None:
    found = three_ways(norm_program(4, 2), draw(4, 5), draw(4, 5), path=path)
    assert found.same_values
    assert found.run.cycles == found.timeline_cycles
    assert found.run.path == path


def test_a_gemv_in_16_bits_three_ways() -> None:
    x, weight = draw(5, 6, dtype="bfloat16"), draw(5, 3, 6, 7, dtype="bfloat16")
    found = three_ways(gemv_program(5, 3), x, weight)
    assert found.same_values
    assert found.run.cycles == found.timeline_cycles
    expected = np.einsum(
        "rk,rckn->cn", *(np.asarray(a, np.float64) for a in (x, weight))
    )
    np.testing.assert_allclose(found.stepped[0][0], expected, rtol=1e-5, atol=1e-5)


def sum_program(pes: int) -> Program:
    return Program(lambda x: all_reduce(x, "pe"), {"pe": pes}, (("pe",),))


def test_a_mesh_of_one_axis() -> None:
    found = three_ways(sum_program(6), draw(6, 3))
    assert found.same_values
    assert found.run.cycles == found.timeline_cycles


def small_layer(rows: int, parts: int, dtype: str = "float32") -> LayerMap:
    return LayerMap(
        hidden=8 * rows,
        ffn=96,
        heads=4,
        kv_heads=2,
        head_dim=8,
        eps=1e-5,
        qk_norm=False,
        context=32,
        rows=rows,
        parts=parts,
        dtype=dtype,
    )


def test_a_whole_layer_three_ways() -> None:
    layer = small_layer(3, 1)
    found = three_ways(layer_program(layer), *layer_data(layer, pos=10, gap=2))
    assert found.same_values
    assert 0 <= late(found) <= LATE
    assert found.run.path == "cycles"  # it walks in, by a microthread


def test_calls_of_one_collective_share_their_colors() -> None:
    layer = small_layer(3, 1)
    fabric = translated(layer_program(layer), DEVICE, *layer_data(layer, 10, 2))
    # Of sums along columns of PEs to the middle one and to the first, of those along rows, and the
    # walk's.
    assert set(fabric.program.colors) == {
        *(
            "walk",
            "reduce row 0 0",
            "reduce row 0 1",
            "multicast row 0 ",
            "multicast row 0 -",
        ),
        *("reduce row 1 0", "reduce row 1 1", "multicast row 1 "),
        *("reduce col 0 0", "multicast col 0 "),
    }


def test_a_collective_without_a_fabric_program_is_refused_by_name() -> None:
    def kernel(top: Sram, token: Sram) -> Sram:
        _, token = chain_argmax(top, token, top, token, axis="col")
        return token

    program = Program(kernel, {"col": 4}, (("col",), ("col",)))
    args = draw(4, 1), jnp.zeros((4, 1), jnp.int32)
    with pytest.raises(
        LimitExceeded, match=r"wse.chain_argmax: no fabric program.*\.py:\d"
    ):
        translated(program, DEVICE, *args)


def test_a_collective_into_another_tile_is_refused() -> None:
    def kernel(x: Sram) -> Sram:
        return reduce(sram_tile(shape=x.shape, dtype="float32"), x, axis="col")

    with pytest.raises(
        LimitExceeded, match=r"wse.reduce: its result is in another tile"
    ):
        translated(Program(kernel, {"col": 4}, (("col",),)), DEVICE, draw(4, 3))


def test_arithmetic_that_is_no_instruction_is_refused_with_its_line() -> None:
    def kernel(x: Sram) -> Sram:
        return copy(sram_tile(shape=x.shape, dtype="float32"), x + 1)

    with pytest.raises(LimitExceeded, match=r"add: is no instruction.*\.py:\d"):
        translated(Program(kernel, {"col": 2}, (("col",),)), DEVICE, draw(2, 3))


def test_a_tile_that_is_gone_leaves_its_room_to_another() -> None:
    def kernel(x: Sram) -> Sram:
        for _ in range(5):
            x = copy(sram_tile(shape=x.shape, dtype="float32"), x)
        return x

    fabric = translated(Program(kernel, {"col": 2}, (("col",),)), DEVICE, draw(2, 3))
    assert list(fabric.program.buffers) == ["given 0", "tile 0", "tile 1"]
    (task,) = fabric.program.tasks["kernel"]
    assert all(isinstance(op, ops.Code) for op in task.code) and len(task.code) == 5


@pytest.mark.parametrize("pes, words, link", [(16, 24, "to west"), (3, 1, "to ramp")])
def test_words_that_want_one_link_take_turns(pes: int, words: int, link: str) -> None:
    """The timeline's formulas neglect it: 212 cycles for 202 on 16 PEs, and 75 for 74 on 3."""
    found = three_ways(sum_program(pes), draw(pes, words))
    assert found.same_values
    assert found.run.path == "cycles" and f"want the link {link}" in found.run.why
    assert 0 < late(found) <= 0.05


def test_rows_without_a_live_slot_are_refused() -> None:
    layer = small_layer(3, 2)
    with pytest.raises(LimitExceeded, match="wse.reduce: a line sends no elements"):
        translated(layer_program(layer), DEVICE, *layer_data(layer, pos=1, gap=0))


EXPERTS = ExpertMlp(Routing(8, 2), ffn=6)
GROUPED = ExpertMlp(
    Routing(
        8, 3, score="sigmoid", selection_bias=True, groups=4, chosen_groups=2, scale=2.5
    ),
    ffn=6,
    shared=1,
)
LATENTS = LatentHeads(query_rank=10, rank=12, plain=6, turned=8, value_dim=5)
FORMS = {
    "latents": DecodeForm(latent=LATENTS),
    "experts": DecodeForm(mlp=EXPERTS),
    "latents and experts": DecodeForm(latent=LATENTS, mlp=GROUPED, score_scale=0.4),
    "biases and norms": DecodeForm(
        qkv_bias=True, out_bias=True, output_norms=True, residual_scale=0.5
    ),
}


def layer_of_form(form: DecodeForm) -> LayerMap:
    latent = form.latent is not None
    return LayerMap(
        hidden=22,
        ffn=26,
        heads=6,
        kv_heads=3 if latent else 2,
        head_dim=LATENTS.cached_width if latent else 12,
        eps=1e-5,
        qk_norm=False,
        context=9,
        rows=4,
        parts=2,
        form=form,
    )


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_a_fabric_program(name: str) -> None:
    layer = layer_of_form(FORMS[name])
    fabric = translated(layer_program(layer), DEVICE, *layer_arguments(layer, 8, 1))
    assert len(fabric.program.colors) <= DEVICE.colors


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_forms_three_ways(name: str) -> None:
    layer = layer_of_form(FORMS[name])
    found = three_ways(layer_program(layer), *drawn(layer_arguments(layer, 8, 1)))
    assert found.same_values
    assert 0 <= late(found) <= LATE


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows, parts, dtype", [(4, 2, "float32"), (8, 4, "bfloat16")], ids=str
)
def test_layers_of_short_lines_three_ways(rows: int, parts: int, dtype: str) -> None:
    layer = small_layer(rows, parts, dtype)
    found = three_ways(layer_program(layer), *layer_data(layer, pos=21, gap=3))
    assert found.same_values
    assert 0 <= late(found) <= LATE


@pytest.mark.slow
@pytest.mark.parametrize("side, parts", [(16, 4), (32, 4)])
def test_layers_of_long_lines_three_ways(side: int, parts: int) -> None:
    """From 12 PEs on lines are summed in groups, whose streams meet: see above."""
    layer = LayerMap(
        hidden=4 * side,
        ffn=6 * side,
        heads=side // parts,
        kv_heads=side // parts,
        head_dim=16,
        eps=1e-5,
        qk_norm=False,
        context=4 * side,
        rows=side,
        parts=parts,
        dtype="bfloat16",
    )
    data = layer_data(layer, pos=3 * side + 5, gap=3)
    found = three_ways(layer_program(layer), *data)
    assert found.same_values
    assert found.timeline_cycles <= found.run.cycles <= 1.01 * found.timeline_cycles
