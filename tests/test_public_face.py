"""What each package gives its users, and what a clock says when it is printed."""

import importlib
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import trn_wse as tw
from tests.test_layers import HEAVY

ROOT = pathlib.Path(__file__).parents[1]
# What a researcher imports. A name is added here when it is meant to stay.
FACES = {
    "trn_wse": """
        ContextAttention EmulationError FabricProgram Known Program Reading TRN1 TRN2 TRN3 WSE2 WSE3
        dma_load dma_store drawn instruction isa masks on_system psum sbuf stepper
    """,
    "emu": """
        BANDS Bound Cost Crossing Device EmulationError Event Instruction Known Operand Program
        Quantity Reading Sheet banded bound drawn ds instruction limit old progress release
        strict_jit
    """,
    "emu.trainium": """
        GENERATIONS NeuronCoreSheet SYSTEMS System TRN1 TRN1N_32XLARGE TRN1_32XLARGE TRN2
        TRN2_48XLARGE TRN2_ULTRASERVER TRN3 TRN3_GEN1 TRN3_GEN2 on_system with_cores
        isa array hbm psum sbuf
        dma_accumulate dma_copy dma_gather dma_gather_rows dma_scatter_add dma_scatter_rows
        dma_sum2 dma_sum3 dma_load dma_load_tiles dma_store
        dma_transpose
        send send_next sendrecv core_barrier all_gather all_reduce reduce_scatter
        chip_all_gather chip_all_reduce chip_all_to_all chip_broadcast chip_reduce_scatter
        all_gather_both all_reduce_both reduce_scatter_both all_to_all_rows chip_all_to_all_rows
    """,
    "emu.wse": """
        FabricProgram drawn ops programs stepper trees
        WSE2 WSE3 WSE3_SILICON WaferSheet at_clock on_silicon
        argmax best_sums chain_argmax chosen_map copy copy_chosen copy_into cross exp fill fmac_map
        fold gather listed lookup lookup_live multicast multicast_2d narrow of_best_blocks outranked
        reciprocal reduce renumbered ring_all_reduce rope row_live rsqrt_mean
        scalar_of_one_live scalar_of_two_live scalar_select_live scatter score_map select_live
        shift silu square_sum sram_tile value_map vector vector_live vector_of_one_live
        vector_scale walk widen_live widen_nibbles
    """,
    "kernels": """
        ContextAttention FABRIC_PROGRAMS LatentAttention PLACEMENTS Placement TRAINIUM_KERNELS
        TokenClock Variant WaferPlan attention masks place plan_wafer
    """,
    "models": """
        CATALOGUE Decoder Disaggregated FAMILIES Family Loaded ModelConfig ModelError Prefill
        Transformer find from_weights generate load
    """,
}
LIGHT = [name for name in FACES if name.startswith(("emu", "kernels"))]


@pytest.mark.parametrize("package", FACES)
def test_the_names(package):
    face = importlib.import_module(package)
    names = FACES[package].split()
    assert set(face.__all__) == set(names)
    assert all(hasattr(face, name) for name in names)


@pytest.mark.parametrize("package", LIGHT)
def test_importing_is_light(package):
    """No plotting, no training libraries: a kernel's author waits for JAX only."""
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("package", [name for name in FACES if name != "emu"])
def test_the_example_in_its_docstring_runs(package, capsys):
    """`emu` alone computes nothing: its examples are those of the machines."""
    doc = importlib.import_module(package).__doc__ or ""
    (block,) = re.findall(r"```python\n(.*?)```", doc, flags=re.DOTALL)
    exec(block, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", ["README.md", "DESIGN.md"])
def test_pages_import_from_public_faces_only(page):
    """A name of a face, or a module that a face lists, such as `emu.trainium.isa`."""
    text = (ROOT / page).read_text()
    imports = re.findall(
        r"^from ((?:emu|kernels|models)\S*) import (.+)$", text, re.MULTILINE
    )
    assert imports
    for module, names in imports:
        package, _, last = module.rpartition(".")
        if module in FACES:
            assert set(names.split(", ")) <= set(FACES[module].split()), (page, module)
        else:
            assert last in FACES[package].split(), (page, module)


def test_it_has_a_version():
    assert tw.__version__


def product(x):
    tile = tw.dma_load(tw.sbuf(128, 128, dtype=x.dtype), x)
    sums = tw.isa.nc_matmul(tw.psum(128, 128), tile, tile, 0)
    return tw.dma_store(tw.isa.tensor_copy(tw.sbuf(128, 128), sums))


def test_a_printed_clock_is_five_lines():
    x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
    clock = tw.Program(product, {"core": 1}, ((),)).read(tw.TRN2.at(), x)
    time, busy, flops, moved, instructions = str(clock).splitlines()
    assert time.startswith(f"{clock.machine}: ")
    assert clock.machine == "Trainium2 (nominal), 1 NeuronCore; 1 of 8 cores a chip run"
    assert f"{clock.end_ticks:,} ticks" in time
    assert "tensor" in busy and "%" in busy
    # 128 x 128 x 128 multiply-adds; float32 out, bfloat16 in.
    assert flops == f"FLOPs: trn.nc_matmul {2 * 128**3:,}"
    assert f"hbm_read {128 * 128 * 2:,}" in moved
    assert f"hbm_write {128 * 128 * 4:,}" in moved
    assert instructions.startswith(f"instructions: {clock.issued} on all cores")
