"""Where tiles are declared, which block dimensions stay, and what rings take."""

import numpy as np

from emu import Program
from emu.trainium import TRN2, dma_load, isa
from emu.trainium.engines.memory import dma_store
from emu.trainium.nki.lower import lower
from emu.trainium.nki.rings import Room, depth, room
from emu.trainium.nki.scopes import scopes
from emu.trainium.nki.tree import Access, Choice, Node, Recorded, Tensor
from tests.emu.trainium.nki.trees import affine, in_hbm, loop, on_chip, operation, tile

F32 = np.dtype(np.float32)


def test_a_family_that_each_turn_names_is_one_tile_in_the_body() -> None:
    i, j = loop(4, 1), loop(3, 2)
    t = tile((128, 64), "t", (4, 3))
    member = [affine(0, (i, 1)), affine(0, (j, 1))]
    j.body += [
        operation(20, isa.memset, [on_chip(t, member)], [], value=0.0),
        operation(21, isa.tensor_copy, [on_chip(t, member)], [on_chip(t, member)]),
    ]
    i.body.append(j)
    (buffer,) = scopes([i])
    assert buffer.loops == (i, j)
    assert buffer.shape == (128, 64)
    assert buffer.before is j.body[0]
    assert depth(buffer) == 2


def test_a_dimension_that_another_loop_goes_through_stays() -> None:
    """Filled in one loop and read in another, inside a third that names its member of `i`."""
    i, j, k = loop(4, 1), loop(3, 2), loop(3, 3)
    t = tile((128, 64), "t", (4, 3))
    out = tile((128, 64), "out")
    write = on_chip(t, [affine(0, (i, 1)), affine(0, (j, 1))])
    read = on_chip(t, [affine(0, (i, 1)), affine(2, (k, -1))])
    j.body.append(operation(20, isa.memset, [write], [], value=0.0))
    k.body.append(operation(21, isa.tensor_copy, [on_chip(out)], [read]))
    i.body += [j, k]
    buffer = scopes([i]).of(write)
    assert buffer.loops == (i,)
    assert buffer.kept == ((1, 0, 3),)
    assert buffer.shape == (128, 3, 64)
    assert buffer.before is j


def test_what_the_next_turn_may_read_stays_outside() -> None:
    i = loop(4, 1)
    t = tile((128, 64), "t")
    i.body.append(operation(20, isa.tensor_copy, [on_chip(t)], [on_chip(t)]))
    (buffer,) = scopes([i])
    assert buffer.loops == () and depth(buffer) == 1
    # A member that two turns share: i and j of 4 + j for i = 0, j = 4 and i = 1, j = 0.
    i, j = loop(2, 1), loop(5, 2)
    family = tile((128, 64), "f", (9,))
    access = on_chip(family, [affine(0, (i, 4), (j, 1))])
    j.body.append(operation(20, isa.memset, [access], [], value=0.0))
    i.body.append(j)
    (buffer,) = scopes([i])
    assert buffer.loops == () and buffer.shape == (128, 9, 64)


def test_members_named_by_numbers_are_tiles_of_their_own() -> None:
    t = tile((128, 64), "t", (2,))
    i = loop(4, 1)
    parts = [on_chip(t, [affine(number)]) for number in (0, 1)]
    i.body += [operation(20, isa.memset, [part], [], value=0.0) for part in parts]
    found = scopes([i])
    assert found.of(parts[0]) is not found.of(parts[1])
    assert [buffer.shape for buffer in found] == [(128, 64), (128, 64)]


def test_a_last_turn_apart_has_a_tile_of_its_own() -> None:
    """Of 11 turns the last is cut short, so it stands behind a loop of 10."""
    i = loop(10, 1)
    t = tile((128, 64), "t", (11,))
    in_loop = on_chip(t, [affine(0, (i, 1))])
    last = on_chip(t, [affine(10)], ((1, 32),))
    i.body.append(operation(20, isa.memset, [in_loop], [], value=0.0))
    behind = operation(20, isa.memset, [last], [], value=0.0)
    found = scopes([i, behind])
    assert found.of(in_loop).loops == (i,) and found.of(last).loops == ()
    assert {buffer.shape for buffer in found} == {(128, 64)}


def products(columns: int, add: int) -> tuple[list[Node], Access]:
    """Three products in PSUM, each added to what is there or not, then copied to SBUF."""
    j, k = loop(3, 1), loop(3, 2)
    t = tile((128, columns), "t", (3,), "psum")
    out, a = tile((128, columns), "out"), tile((128, columns), "a")
    write, read = (on_chip(t, [affine(0, (each, 1))]) for each in (j, k))
    weights = on_chip(a, axes=((1, 128),))
    reads = [weights, on_chip(a), affine(add)]
    product = operation(20, isa.nc_matmul, [write], reads)
    product.choices = (Choice("tensor", isa.nc_matmul, {}),)
    j.body.append(product)
    k.body.append(operation(21, isa.tensor_copy, [on_chip(out)], [read]))
    return [j, k], write


def test_members_in_psum_share_banks_and_none_crosses_one() -> None:
    """Three members of 100 columns of float32, 400 bytes: 512 bytes apart, all in one bank."""
    body, write = products(columns=100, add=0)
    found = scopes(body)
    assert found.of(write).shape == (128, 3, 128)
    assert room(body, found).psum_bytes == 2048


def test_members_that_are_added_to_take_whole_banks() -> None:
    """The Tensor Engine has one accumulation group a bank: members are 2 KiB apart."""
    body, write = products(columns=100, add=1)
    found = scopes(body)
    assert found.of(write).shape == (128, 3, 512)
    assert room(body, found).psum_bytes == 3 * 2048


def test_room_is_what_the_memory_check_counts() -> None:
    """Two loops, one after the other: a ring lives as long as the loop whose body declares it."""
    rows, columns = 128, 256
    x = Tensor((8 * rows, columns), F32, "hbm", "x", role="input", number=0)
    y = Tensor((8 * rows, columns), F32, "hbm", "y", role="output", number=0)
    around = tile((rows, columns), "around")
    whole = ((columns, rows), (1, columns))
    body: list[Node] = [operation(10, dma_load, [on_chip(around)], [in_hbm(x, whole)])]
    for number, names in enumerate((("a", "b"), ("c",))):
        i = loop(4, number)
        member = [affine(0, (i, 1))]
        start = affine(4 * number * rows * columns, (i, rows * columns))
        tiles = [tile((rows, columns), name, (4,)) for name in names]
        sums = tile((rows, 512), f"sums{number}", (4,), "psum")
        source = on_chip(tiles[0], member)
        i.body.append(operation(20, dma_load, [source], [in_hbm(x, whole, start)]))
        part = on_chip(sums, member, ((1, columns),))
        weights = on_chip(around, axes=((1, 128),))
        i.body.append(
            operation(21, isa.nc_matmul, [part], [weights, source, affine(0)])
        )
        last = on_chip(tiles[-1], member)
        i.body.append(operation(22, isa.tensor_copy, [last], [part]))
        i.body.append(operation(23, dma_store, [in_hbm(y, whole, start)], [last]))
        body.append(i)
    recorded = Recorded("two loops", "nki", body, (x,), (y,), ())
    program = Program(lower(recorded, depth=3), {"nc": 1}, ((),))
    peaks = program.memory(TRN2.at(), np.zeros(x.shape, np.float32))
    found = room(body, scopes(body), default=3)
    # 1 KiB a partition each: the tile around, and 3 of a and b.
    assert found == Room(sbuf_bytes=7 * 1024, psum_bytes=3 * 2048)
    assert peaks["sbuf"] == 128 * found.sbuf_bytes
    assert peaks["psum"] == 128 * found.psum_bytes
