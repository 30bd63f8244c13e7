"""A kernel of one's own: functions and programs, their shapes, and how mistakes are told."""

import pathlib

import jax.numpy as jnp
import pytest

from emu.trainium.datasheets import TRN2
from experiments.kernel import __main__ as kernel
from experiments.kernel import own
from experiments.kernel.request import request
from experiments.shared import cli
from experiments.shared.errors import UsageError

FILE = '''
import jax
from emu import Program
from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
from emu.trainium.isa import nc_matmul, tensor_copy

def copies(x, n, *, buffers=2, engine="vector"):
    """Through SBUF and back, n times."""
    tile = lambda: dma_load(sbuf(*x.shape, dtype=x.dtype, buffers=buffers), x)
    out = lambda: sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
    return [dma_store(tensor_copy(out(), tile(), engine=engine)) for _ in range(n)]

def product(x, w):
    x, w = dma_load(sbuf(*x.shape), x), dma_load(sbuf(*w.shape), w)
    return dma_store(tensor_copy(sbuf(128, 512), nc_matmul(psum(128, 512), x, w, 0)))

def positional(n, x, /):
    return [dma_store(dma_load(sbuf(*x.shape), x)) for _ in range(n)]

def repeated(x, n):
    def body(i, _): return dma_store(dma_load(sbuf(*x.shape), x))
    return jax.lax.cond(n > 2, lambda: body(0, 0), lambda: body(1, 0))

def boom(x): return 1 / 0
def data(x): return x if x[0, 0] > 0 else dma_store(dma_load(sbuf(*x.shape), x))
def reshaped(x): return dma_store(dma_load(sbuf(3, 5), x.reshape(3, 5)))
def nothing(x): pass
def many(*tiles): return tiles

ON_FOUR = Program(product, {"core": 4}, (("core",), ()))
KNOWING = Program(repeated, {"core": 1}, ((), ()))
NUMBER = 3
'''


@pytest.fixture
def mine(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def run(*words: str):
    return kernel.read(request(list(words)), TRN2)


# --- arrays ---


def test_arrays_are_told_by_dtype_and_sizes() -> None:
    found = own.array("bf16[8, 128,512]")
    assert found.shape == (8, 128, 512) and found.dtype == jnp.bfloat16
    assert own.array("f32[]").shape == ()
    assert own.array("int32[4]").dtype == own.array("i32[4]").dtype == jnp.int32
    assert all(own.array(f"{name}[1]") for name in own.DTYPES)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bf17[2]", "no dtype 'bf17', must be one of bf16, f16, f32"),
        ("f64[2]", "no dtype 'f64'"),
        ("bf16[2,]", "must be whole numbers of at least 1"),
        ("bf16[0]", "must be whole numbers of at least 1"),
        ("bf16[-1]", "must be whole numbers of at least 1"),
        ("bf16[a]", "must be whole numbers of at least 1"),
        ("bf16[2", "is no array, which reads DTYPE.SIZES. as bf16"),
        ("[2]", "is no array"),
    ],
)
def test_what_is_no_array_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        own.array(text)


# --- kernels ---


def test_a_function_takes_arrays_by_shape_and_numbers_as_they_are(mine: str) -> None:
    one = run(f"{mine}:copies", "x=bf16[128,512]", "n=1")
    three = run(f"{mine}:copies", "x=bf16[128,512]", "n=3", "engine=scalar")
    assert three.clock.issued == 3 * one.clock.issued
    assert one.quantities.hbm_bytes == 2 * 128 * 512 * 2
    assert three.title == ("mine.py:copies buffers=2 engine=scalar x=bf16[128,512] n=3")


def test_numbers_may_stand_before_arrays(mine: str) -> None:
    found = run(f"{mine}:positional", "x=f32[128,8]", "n=2")
    assert found.quantities.hbm_bytes == 2 * 2 * 128 * 8 * 4


def test_a_program_keeps_its_mesh_and_the_core_that_ends_last_is_shown(
    mine: str,
) -> None:
    found = run(f"{mine}:ON_FOUR", "x=f32[4,128,128]", "w=f32[128,512]")
    assert found.cores == 4
    arguments = 4 * (128 * 128 + 128 * 512)
    assert found.quantities.necessary_bytes == arguments + 4 * 128 * 512
    assert sum(part.ticks for part in found.split.parts) == found.clock.end_ticks


def test_a_number_beside_a_programs_arrays_is_known_to_the_clock(mine: str) -> None:
    assert run(f"{mine}:KNOWING", "x=f32[128,8]", "n=3").clock.end_ticks > 0


def test_two_runs_of_a_function_differ_in_what_is_said_again(mine: str) -> None:
    first = request([f"{mine}:copies", "x=bf16[128,512]", "n=4"])
    second = request(["buffers=1"], like=first)
    assert second.given == {**first.given, "buffers": 1}
    titles = [kernel.read(asked, TRN2).title for asked in (first, second)]
    assert "buffers=2" in titles[0] and "buffers=1" in titles[1]


def test_several_values_are_candidates_for_tune(
    mine: str, capsys: pytest.CaptureFixture
) -> None:
    words = ["tune", f"{mine}:copies", "x=bf16[128,512]", "n=4", "buffers=1,2,3"]
    cli.run("kernel", kernel.options, kernel.main, words)
    text = capsys.readouterr().out
    assert "best of 3 settings (the whole grid): buffers=" in text


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([""], "which kernel? name"),
        ([":other"], "mine.py: no kernel 'other'; name one of ON_FOUR"),
        ([":NUMBER"], "NUMBER is of type int, must be a function, a Program or"),
        ([":product"], "give x=DTYPE[SIZES], w=DTYPE[SIZES], as in x=bf16[128,512]"),
        ([":product"], "(mine.py:13)"),
        (
            [":product", "y=f32[2]"],
            "'y=f32[2]': mine.py:product takes KEY=VALUE for x, w",
        ),
        ([":product", "x=f33[2]"], "'x=f33[2]': no dtype 'f33'"),
        ([":product", "x=two"], "'x=two': give x an array such as bf16[128,512]"),
        ([":product", "x"], "'x': mine.py:product takes KEY=VALUE"),
        ([":many", "tiles=f32[2]"], "mine.py:many takes KEY=VALUE for nothing"),
        (
            [":boom", "x=f32[2]"],
            "boom: ZeroDivisionError: division by zero (mine.py:24)",
        ),
        ([":data", "x=f32[2,2]"], "Attempted boolean conversion of traced array"),
        ([":data", "x=f32[2,2]"], "(mine.py:25)"),
        ([":reshaped", "x=f32[2,2]"], "cannot reshape array of shape (2, 2)"),
        ([":nothing", "x=f32[2]"], "mine.py:nothing x=f32[2]: takes no time"),
        (
            [":product", "x=f32[64,128]", "w=f32[128,512]"],
            "trn.nc_matmul: cannot take float32[64, 128], float32[128, 512], int32[] into ",
        ),
        ([":product", "x=f32[64,128]", "w=f32[128,512]"], "(mine.py:15)"),
        ([":product", "x=f32[256,128]", "w=f32[256,512]"], "at most 128 (mine.py:14)"),
        ([":copies", "x=f32[4,4]", "n=1,2"], "n: several values are for `tune`"),
        (["tune:copies", "x=f32[4,4]", "n=1"], "give a parameter several values"),
        ([":KNOWING", "x=f32[4,4]", "n=many"], "'n=many': give n an array"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    mine: str,
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture,
) -> None:
    command, colon, name = words[0].partition(":")
    line = [*filter(None, [command]), f"{mine}{colon}{name}", *words[1:]]
    with pytest.raises(SystemExit) as stopped:
        cli.run("kernel", kernel.options, kernel.main, line)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert told in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_a_file_without_a_kernel_says_what_to_define(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("pass\n")
    with pytest.raises(UsageError, match="has no kernel; define a function of arrays"):
        request([str(path)])
