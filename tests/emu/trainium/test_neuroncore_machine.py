"""The NeuronCore as one machine: memory spaces, capacity by partition, hazards, bands, links."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import BANDS, Program, Quantity
from emu.errors import LimitExceeded, OutOfMemory, StaleTile, WrongSpace
from emu.trainium import isa
from emu.trainium.datasheets import TRN3, with_cores
from emu.trainium.engines.memory import (
    dma_load,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.links.neuronlink import send_next

DEVICE = TRN3.at()
TILE = jax.ShapeDtypeStruct((128, 512), jnp.float32)
US = 4800  # ticks


def program(kernel, chips=1):
    return Program(kernel, {"ring": chips}, ((),))


def read(kernel, *args, chips=1, **options):
    return program(kernel, chips).read(DEVICE, *args, **options)


def loaded(x, dtype=jnp.float32):
    return dma_load(sbuf(*x.shape, dtype=dtype), x)


# --- memory spaces ---


def test_gpsimd_cannot_read_psum():
    def kernel(x):
        x = loaded(x)
        y = isa.nc_matmul(psum(128, 512), x[:, :128], x, 0)
        return dma_store(isa.affine_select(sbuf(128, 512), y, jnp.int32(0), fill=0.0))

    with pytest.raises(
        WrongSpace,
        match=r"trn.affine_select: operand 1 is in psum, must be in "
        r"sbuf \(test_neuroncore_machine.py:\d+\)",
    ):
        read(kernel, TILE)


WRONG = {
    "nc_matmul: operand 0 is in sbuf, must be in psum": lambda x: isa.nc_matmul(
        sbuf(128, 512), loaded(x)[:, :128], loaded(x), 0
    ),
    "nc_matmul: operand 2 is in hbm, must be in sbuf": lambda x: isa.nc_matmul(
        psum(128, 512), loaded(x)[:, :128], x, 0
    ),
    "tensor_copy: operand 1 is in hbm, must be in sbuf or psum": lambda x: (
        isa.tensor_copy(sbuf(128, 512), x)
    ),
    "dma_load: operand 1 is in sbuf, must be in hbm": lambda x: loaded(loaded(x)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_space(message):
    with pytest.raises(WrongSpace, match=message):
        read(WRONG[message], TILE)


@pytest.mark.parametrize("tile", [sbuf, psum])
def test_at_most_128_partitions(tile):
    message = (
        r"partition dimension is 129, at most 128 \(test_neuroncore_machine.py:\d+\)"
    )
    with pytest.raises(LimitExceeded, match=message):
        read(lambda x: dma_store(isa.tensor_copy(sbuf(129, 1), tile(129, 1))), TILE)


def test_limits_name_the_kernels_line():
    def kernel(x):
        return isa.nc_matmul(psum(128, 4097), loaded(x)[:, :128], sbuf(128, 4097), 0)

    with pytest.raises(
        LimitExceeded, match=r"4097, at most 4096 \(test_neuroncore_machine"
    ):
        read(kernel, TILE, check_memory=False)  # it would not fit PSUM either


def test_a_tile_overwritten_is_stale():
    def kernel(x):
        first = loaded(x)
        second = isa.activation(first, first, op="exp")
        return dma_store(first), dma_store(second)

    with pytest.raises(
        StaleTile, match="trn.dma_store: operand 0 was overwritten by trn.activa"
    ):
        read(kernel, TILE)


# --- capacity ---


def held(*shapes, space=sbuf, dtype=jnp.float32):
    """Peak bytes of tiles of these shapes that live together."""

    def kernel(x):
        tiles = [space(*shape, dtype=dtype) for shape in shapes]
        return [
            isa.tensor_copy(sbuf(1, 1), t[(slice(1),) * t.ndim].reshape(1, 1))
            for t in tiles
        ]

    return program(kernel).memory(DEVICE, TILE)["sbuf" if space is sbuf else "psum"]


def test_a_tile_of_few_partitions_takes_its_bytes_on_all():
    one = 128 * 4  # the copy that reads it: [1, 1] float32
    assert held((1, 512)) == 128 * 512 * 4 + one
    assert held((128, 512)) == 128 * 512 * 4 + one
    assert held((7, 3, 5), dtype=jnp.bfloat16) == 128 * 3 * 5 * 2 + one


def test_psum_is_given_out_in_banks_of_2_kib():
    bank = 128 * 2048
    assert held((1, 1), space=psum) == bank
    assert held((128, 512), space=psum) == bank
    assert held((128, 513), space=psum) == 2 * bank
    assert held((5, 512), (5, 4), (5, 4), space=psum) == 3 * bank
    held(*[(1, 1)] * 8, space=psum)
    with pytest.raises(OutOfMemory, match="2,359,296 bytes of psum, has 2,097,152"):
        held(*[(1, 1)] * 9, space=psum)


def test_sbuf_holds_256_kib_a_partition():
    held((1, 65535))
    with pytest.raises(OutOfMemory, match="of sbuf, has 33,554,432"):
        held((1, 65536))  # and one column for the copy


# --- time ---


def dma_ticks(row_bytes=2048):
    """A DMA of 128 rows: 8 of them on each of 16 engines, and a semaphore; trigger and wake-up.

    A row takes 1 ns and its bytes at 33 GB/s.
    """
    return np.ceil((0.9 + 8 * (0.001 + row_bytes / 33e3) + 0.001 + 0.3) * US)


def test_load_compute_store_by_hand():
    """Load, activation of 512 + 353 cycles and 42 more until the store may start, store."""
    clock = read(
        lambda x: dma_store(isa.activation(sbuf(128, 512), loaded(x), op="exp")), TILE
    )
    nbytes = 128 * 512 * 4
    assert clock.end_ticks == dma_ticks() + (512 + 353 + 42) * 4 + dma_ticks()
    assert (
        clock.tally.by("bytes")["hbm_read"]
        == clock.tally.by("bytes")["hbm_write"]
        == nbytes
    )


def test_matmuls_accumulate_back_to_back():
    """Each waits for the Tensor Engine only: n - 1 intervals and one latency after the load.

    The engine starts cold, at half speed until it was in use for 3 us.
    """
    n = 20

    def kernel(x):
        x = loaded(x)

        def step(bank, i):
            return isa.nc_matmul(bank, x[:, :128], x, (i > 0).astype(jnp.int32)), None

        bank, _ = lax.scan(step, psum(128, 512), jnp.arange(n))
        return dma_store(isa.tensor_copy(sbuf(128, 512), bank))

    clock = read(kernel, TILE, trace_core=(0,))
    matmuls = [e for e in clock.events if e.name == "trn.nc_matmul"]
    copy = next(e for e in clock.events if e.name == "trn.tensor_copy")
    interval, exposed = 4 * 512 * 2, 8 * 2
    busy = interval + 2 * exposed
    slow = int(np.ceil(3 * US / (2 * busy)))
    took = [2 * busy] * slow + [busy] * (n - slow)
    assert [e.end - e.start for e in matmuls] == took
    assert [e.start - matmuls[0].start for e in matmuls] == [0, *np.cumsum(took)[:-1]]
    # What of a weight load is exposed delays the next matmul, not this one's result.
    assert copy.start == matmuls[-1].start + interval + exposed + (128 + 389 + 42) * 2


def test_a_partial_load_does_not_wait_for_another():
    """Parts of one tile queue behind one another's interval, 0.85 us, not their latency."""

    def kernel(x):
        tile = sbuf(128, 4, 512)
        for i in range(4):
            tile = dma_load.at[:, i](tile, x)
        return dma_store(tile)

    clock = read(kernel, TILE, trace_core=(0,))
    starts = [e.start for e in clock.events if e.name == "trn.dma_load"]
    assert starts == [i * 0.85 * US for i in range(4)]


def test_bands_are_ordered():
    def kernel(x):
        x = loaded(x)
        y = isa.nc_matmul(psum(128, 512), x[:, :128], x, 0)
        return send_next(
            hbm(128, 512), dma_store(isa.tensor_copy(sbuf(128, 512), y)), axis="ring"
        )

    p = program(kernel, 4)
    low, nominal, high = (p.read(TRN3.at(band), TILE).end_ticks for band in BANDS)
    assert low < nominal < high


# --- links ---


def hops(x, n):
    for _ in range(n):
        x = send_next(hbm(*x.shape), x, axis="ring")
    return x


@pytest.mark.parametrize("chips", [1, 2, 5])
def test_hops_by_hand(chips):
    """Three hops of 262,144 B at 1.28 TB/s, each 1.5 us on the way."""
    clock = read(functools.partial(hops, n=3), TILE, chips=chips)
    each = np.ceil((262_144 / 1.28e6 + 1.5) * US)
    assert clock.end_ticks == 3 * each
    assert clock.tally.by("other") == {"link_bytes": 3 * 262_144 * chips}


def test_link_speed_is_the_datasheets():
    slow = dataclasses.replace(
        TRN3, link_bytes_per_s=Quantity(262_144e6, "published", "1 us")
    )
    p = program(functools.partial(hops, n=1), 2)
    assert p.read(slow.at(), TILE).end_ticks == 2.5 * US


def test_the_sender_waits_for_its_neighbours_buffer():
    """Core 1 is still reading what core 0 wants to overwrite; the arrival waits on core 1."""

    def kernel(x):
        first = send_next(hbm(*x.shape), x, axis="ring")

        busy = lax.cond(
            lax.axis_index("ring") == 1,
            lambda x, t: dma_load(t, x),
            lambda x, t: isa.memset(t, value=0.0),
            first,
            sbuf(128, 512),
        )
        return dma_store(busy), send_next(first, x, axis="ring")

    clock = read(kernel, TILE, chips=2)
    arrived = np.ravel(clock.outputs[1].ready)
    hop = np.ceil((262_144 / 1.28e6 + 1.5) * US)
    free = hop + dma_ticks()  # core 1's load is done
    assert arrived[1] == free + hop


def test_running_cores_share_the_links():
    """Eight cores send through their chip's links: the bytes take eight times as long."""
    p = program(functools.partial(hops, n=1), 2)
    clock = p.read(with_cores(TRN3, 8).at(), TILE)
    assert clock.end_ticks == np.ceil((8 * 262_144 / 1.28e6 + 1.5) * US)
