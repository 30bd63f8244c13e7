"""The generated list of instructions has every one, with its cost and its limits."""

import importlib.util
import pathlib
import sys

import pytest

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
    assert "nc_matmul(dst, stationary, moving, accumulate, *, tf32=False)" in text
    assert (
        "Reads stationary in SBUF, moving in SBUF, accumulate a known integer." in text
    )
    assert f"| Trainium2 | 520 | 1,029 | {2 * 128 * 128 * 512:,} |" in text
    assert "- stationary rows: at most 128\n" in text
    assert "- moving columns: at most 512 (Trainium1, Trainium2)" in text
    assert "- moving columns: at most 4096 (Trainium3)" in text


def test_what_a_generation_lacks_has_no_price(sections):
    (text,) = sections["exponential"]
    assert "| Trainium2 | – | – | – |" in text and "| Trainium3 | 192 " in text
