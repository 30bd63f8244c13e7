"""The generated list of instructions has every one, with its cost and its limits."""

import functools
import importlib.util
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from emu import strict_jit
from emu.instruction import registered

SCRIPT = pathlib.Path(__file__).parents[1] / "docs" / "instructions.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("instruction_list", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["instruction_list"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sections(script):
    """Entries by name; a name that both machines have, such as `copy`, has two."""
    found = {}
    for part in script.markdown().split("\n#### `")[1:]:
        name, _, text = part.partition("`")
        found.setdefault(name, []).append(text)
    return found


def test_every_instruction_is_listed(script, sections):
    # Other tests of the same process declare toys of their own.
    names = [i.name for i in registered() if i.__module__.startswith("emu.")]
    for name in names:
        assert name.rpartition(".")[2] in sections, name
    assert sum(map(len, sections.values())) >= len(names)


def test_every_instruction_of_a_neuroncore_is_priced(script):
    for inst in registered():
        if inst.name.startswith("trn."):
            devices = script.MACHINES["trn"][2]
            assert any(script.price(inst, device) for device in devices), inst.name


def test_a_matmul(sections):
    """512 columns behind 8 exposed cycles; one PSUM bank before Trainium3, all of it there."""
    (text,) = sections["nc_matmul"]
    assert "accumulate, *, tf32=False, onezero=False)" in text
    assert (
        "Reads stationary in SBUF, moving in SBUF, accumulate a known integer." in text
    )
    assert f"| Trainium2 | 520 | 1,029 | {2 * 128 * 128 * 512:,} |" in text
    assert "- stationary rows: at most 128\n" in text
    assert "- moving columns: at most 512 (Trainium1, Trainium2)" in text
    assert "- moving columns: at most 4096 (Trainium3)" in text


def test_what_a_generation_lacks_has_no_price(sections):
    (text,) = sections["exponential"]
    assert "| Trainium2 | – | – | – |" in text and "| Trainium3 | 300 " in text


AFTER = {
    "plus": lambda x, y: x + y,
    "minus a constant": lambda x, y: x - x.dtype.type(1e8),
    "times a constant": lambda x, y: x * x.dtype.type(0.1),
    "over": lambda x, y: y / x,
}


def wide_operands(example, seed):
    """Operands of an example in float32, where they are floats of 16 bits or more."""
    rng = np.random.default_rng(seed)
    found = []
    for operand in example.operands:
        if operand.known is not None:
            found.append(jnp.asarray(operand.known))
        elif jnp.issubdtype(operand.dtype, jnp.floating):
            narrow = operand.dtype.itemsize == 1
            dtype = operand.dtype if narrow else np.float32
            found.append(jnp.asarray(rng.standard_normal(operand.shape), dtype))
        else:
            found.append(jnp.asarray(np.zeros(operand.shape, operand.dtype)))
    return found


def floats(results):
    results = results if isinstance(results, tuple) else (results,)
    return [x for x in results if x.dtype == np.float32]


def flushed(x):
    """As XLA computes on a CPU: what lies under the least normal value is zero."""
    least = np.finfo(x.dtype).smallest_normal
    return np.where(np.abs(x) < least, np.copysign(0, x), x)


def pairs_of_two(number):
    """Of `AFTER` a sum and a product: which ones is another choice for every instruction."""
    sums, products = ("plus", "minus a constant"), ("times a constant", "over")
    return {name: AFTER[name] for name in (sums[number % 2], products[number // 2 % 2])}


@pytest.mark.optimized
@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_no_instruction_is_computed_together_with_what_follows(script, every):
    """What follows sees the result that the instruction has alone, bit for bit."""
    checked = 0
    for number, inst in enumerate(registered()):
        follows = AFTER if every else pairs_of_two(number)
        example = script.EXAMPLES.get(inst.name)
        if not isinstance(example, script.Example) or not inst.reads:
            continue
        call = functools.partial(inst, **example.params)
        # Of each what follows its own operands: what two need, XLA would compute once, and apart.
        given = [wide_operands(example, seed) for seed in range(len(follows))]
        alone = strict_jit(
            lambda given, call=call: [floats(call(*own)) for own in given]
        )
        results = [[np.asarray(x) for x in own] for own in alone(given)]
        if not results[0]:
            continue
        rng = np.random.default_rng(9)
        others = [rng.standard_normal(x.shape).astype(np.float32) for x in results[0]]

        def followed(given, others, call=call, follows=follows):
            pairs = zip(follows.values(), given, strict=True)
            return [
                list(map(after, floats(call(*own)), others)) for after, own in pairs
            ]

        found = strict_jit(followed)(given, others)
        for (name, after), own, ours in zip(
            follows.items(), results, found, strict=True
        ):
            with np.errstate(all="ignore"):
                expected = [flushed(x) for x in map(after, own, others)]
            for got, wanted in zip(ours, expected, strict=True):
                message = f"{inst.name} {name}"
                np.testing.assert_array_equal(got, wanted, err_msg=message)
        checked += 1
    assert checked > 40
