"""Loops of the older generation: two turns and the last are run, and the tree is whole."""

import jax
import numpy as np
import pytest

from emu.trainium.nki import interpret, stubs
from emu.trainium.nki.record import Recorder, record
from emu.trainium.nki.tree import Loop, Recorded, walk

ROWS, COLUMNS = 1024, 256


def scaled(nl, nisa):
    """Two loops inside each other; counts how often the inner body is run."""
    runs = []

    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(ROWS // 128):
            for j in nl.sequential_range(COLUMNS // 32):
                runs.append((int(i), int(j)))
                rows, columns = nl.ds(i * 128, 128), nl.ds(j * 32, 32)
                tile = nl.load(x[rows, columns])
                nl.store(out[rows, columns], nl.multiply(tile, 2.0))
        return out

    return kernel, runs


def cut(nl, nisa):
    """A mask cuts the last turn: all of them are run."""
    runs = []

    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        rows, columns = nl.mgrid[0:128, 0:COLUMNS]
        for i in nl.affine_range(-(-x.shape[0] // 128)):
            runs.append(int(i))
            mask = i * 128 + rows < x.shape[0]
            tile = nl.load(x[i * 128 + rows, columns], mask=mask)
            nl.store(out[i * 128 + rows, columns], nl.add(tile, 1.0), mask=mask)
        return out

    return kernel, runs


def listed(nl, nisa):
    """Keeps what each turn made in a list of Python, of which a turn left out has no place."""
    runs = []

    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        tiles = []
        for i in nl.affine_range(ROWS // 128):
            runs.append(int(i))
            tiles.append(nl.load(x[nl.ds(i * 128, 128), 0:COLUMNS]))
        for i in range(ROWS // 128):
            nl.store(out[i * 128 : (i + 1) * 128, 0:COLUMNS], tiles[i])
        return out

    return kernel, runs


def recorded(make, shape) -> tuple[Recorded, list]:
    with stubs.installed() as modules:
        nl = modules["neuronxcc.nki.language"]
        nisa = modules["neuronxcc.nki.isa"]
        kernel, runs = make(nl, nisa)
        argument = jax.ShapeDtypeStruct(shape, np.float32)
        return record(kernel, [argument], api="neuronxcc.nki"), runs


def times(found: Recorded) -> int:
    """Operations of the tree, unrolled."""
    return sum(
        int(np.prod([loop.count for loop in path])) for _, path in walk(found.body)
    )


def test_three_turns_tell_of_all() -> None:
    found, runs = recorded(scaled, (ROWS, COLUMNS))
    assert len(runs) == 9
    assert max(runs) == (7, 7)
    outer = found.body[0]
    assert isinstance(outer, Loop) and outer.count == 8
    assert times(found) == 3 * 8 * 8
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    (got,) = interpret.run(found, x)
    np.testing.assert_array_equal(got, 2 * x)


@pytest.mark.parametrize("make", (cut, listed))
def test_what_three_turns_do_not_tell_is_run_whole(make) -> None:
    rows = ROWS - 24 if make is cut else ROWS
    found, runs = recorded(make, (rows, COLUMNS))
    assert runs[-8:] == list(range(8))
    x = np.random.default_rng(0).standard_normal((rows, COLUMNS)).astype(np.float32)
    (got,) = interpret.run(found, x)
    np.testing.assert_array_equal(got, x + (make is cut))


def test_the_newer_generation_is_run_turn_by_turn() -> None:
    recorder = Recorder("nki", "trn2", (), frozenset())
    assert list(recorder.loop(8, "affine")) == list(range(8))
    older = Recorder("neuronxcc.nki", "trn2", (), frozenset())
    assert list(older.loop(8, "affine")) == [0, 1, 7]
    assert list(older.loop(8, "static")) == list(range(8))
