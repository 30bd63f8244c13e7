"""Each misuse raises its own error, naming the instruction, the figures and the line in here."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from emu import Program, errors, release
from tests.helpers import (
    F32,
    TOY,
    accumulate,
    add,
    all_add,
    counted,
    load,
    mul,
    signal,
    split,
    store,
    tile,
    with_sbuf,
)

MESH = {"r": 2}


def line_of(fn, text):
    """`file:line` of the only line of `fn` that holds `text`."""
    lines, first = inspect.getsourcelines(fn)
    (at,) = [i for i, line in enumerate(lines) if text in line]
    return f"test_errors.py:{first + at}"


def refused(error, kernel, mark, *words, args=(F32,), device=TOY):
    """Asserts that reading raises `error` at the line marked `mark`, saying every word."""
    with pytest.raises(error) as caught:
        Program(kernel, MESH, ((),) * len(args)).read(device, *args)
    for word in (*words, line_of(kernel, mark)):
        assert word in str(caught.value)


def accepted(kernel, *args):
    assert (
        Program(kernel, MESH, ((),) * len(args or (1,)))
        .read(TOY, *(args or (F32,)))
        .issued
    )


def test_stale_tile():
    def kernel(x):
        t = load(tile(), x)
        new = mul(t, t, t)  # overwrites
        return add(tile(), t, new)  # reads

    refused(
        errors.StaleTile,
        kernel,
        "# reads",
        "toy.add",
        "operand 1",
        "toy.mul",
        line_of(kernel, "# overwrites"),
    )


def test_stale_on_some_cores():
    def kernel(x):
        a, t = load(tile(), x), load(tile(), x)
        new = lax.cond(lax.axis_index("r") == 1, lambda t: add(t, a, a), lambda t: t, t)
        return new, mul(tile(), t, a)  # reads

    refused(errors.StaleTile, kernel, "# reads", "toy.mul", "toy.add")


def test_stale_through_a_view():
    def kernel(x):
        t = load(tile(), x)
        view = t.reshape(3, 2)
        new = mul(t, t, t)
        return new, store(view)  # reads

    refused(errors.StaleTile, kernel, "# reads", "toy.store")


def test_wrong_space():
    def kernel(x):
        return add(tile(), load(tile(), x), x)  # reads

    refused(errors.WrongSpace, kernel, "# reads", "toy.add", "operand 2", "hbm", "sbuf")


def test_branch_on_data():
    def compared(x, n):
        t = load(tile(), x)
        return lax.cond(n > 0, lambda t: mul(t, t, t), lambda t: t, t)  # branches

    def switched(x, i):
        t = load(tile(), x)
        return lax.switch(i, [lambda t: mul(t, t, t), lambda t: t], t)  # branches

    def direct(x, flag):
        t = load(tile(), x)
        return lax.cond(flag, lambda t: mul(t, t, t), lambda t: t, t)  # branches

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    for kernel, data in ((compared, number), (switched, number), (direct, flag)):
        refused(
            errors.DataDependentBranch,
            kernel,
            "# branches",
            "emu.Known",
            args=(F32, data),
        )


def test_cost_that_depends_on_data():
    def kernel(x, n):
        t = load(tile(), x)
        return counted(t, t, n, engine="add", busy=1)  # counts

    number = jax.ShapeDtypeStruct((), jnp.int32)
    refused(
        errors.DataDependentBranch,
        kernel,
        "# counts",
        "toy.counted",
        args=(F32, number),
    )


def test_unknown_primitive():
    def kernel(x):
        return jnp.sin(load(tile(), x))  # sine

    refused(errors.NoCostRule, kernel, "# sine", "toy", "'sin'")


def test_differentiated_program():
    def kernel(x):
        return jax.grad(
            lambda x: jnp.sum(mul(tile(), load(tile(), x), load(tile(), x)))
        )(x)

    with pytest.raises(
        errors.NoCostRule,
        match="toy.load: under differentiation there is no instruction",
    ):
        Program(kernel, MESH, ((),)).read(TOY, F32)


@pytest.mark.parametrize("axis_name", [None, "mine"])
def test_mapped_instruction(axis_name):
    """The meaning of a store is `x -> x`: mapped, nothing would be left for the clock to see."""

    def kernel(x):
        mapped = jax.vmap(store, axis_name=axis_name)
        return mapped(load(tile(), x))  # mapped

    refused(errors.NoCostRule, kernel, "# mapped", "toy.store: under jax.vmap")


def test_partial_collective():
    def kernel(x):
        t = load(tile(), x)
        exchange = lambda u: all_add(u, t, axis="r")  # noqa: E731 # exchanges
        return lax.cond(
            lax.axis_index("r") == 0, exchange, lambda u: u, load(tile(), x)
        )

    refused(
        errors.PartialCollective, kernel, "# exchanges", "toy.all_add", "every core"
    )


def test_branches_that_return_different_buffers():
    def kernel(x):
        a, b = load(tile(), x), load(tile(), x)
        pick = lax.axis_index("r") == 0
        return lax.cond(pick, lambda a, b: a, lambda a, b: b, a, b)  # differ

    refused(errors.BranchBufferMismatch, kernel, "# differ", "output 0")


# --- unread instructions ---


def test_unread():
    def kernel(x):
        t = load(tile(), x)
        add(tile(), t, t)  # unread
        return t

    refused(errors.UnreadInstruction, kernel, "# unread", "toy.add")


def test_read_only_by_an_unread_instruction():
    def kernel(x):
        t = mul(tile(), load(tile(), x), load(tile(), x))
        add(tile(), t, t)  # unread
        return load(tile(), x)

    refused(errors.UnreadInstruction, kernel, "# unread", "toy.add")


def test_overwritten_before_it_is_read():
    def kernel(x):
        t = load(tile(), x)  # unread
        return load(t, x)

    refused(errors.UnreadInstruction, kernel, "# unread", "toy.load")


def test_unread_in_a_loop():
    def kernel(x):
        def body(acc, _):
            load(tile(), x)  # unread
            return accumulate(acc, acc), None

        return lax.scan(body, load(tile(), x), None, length=3)[0]

    with pytest.raises(errors.UnreadInstruction, match="toy.load"):
        Program(kernel, MESH, ((),)).read(TOY, F32)


def test_unread_in_a_branch():
    def kernel(x):
        def busy(t):
            add(tile(), t, t)  # unread
            return t

        return lax.cond(lax.axis_index("r") == 0, busy, lambda t: t, load(tile(), x))

    refused(errors.UnreadInstruction, kernel, "# unread", "toy.add")


def test_carried_scratch():
    """A carry that is only ever overwritten is unread; one the next iteration reads is not."""

    def scratch(x):
        def body(carry, _):
            acc, s = carry
            return (accumulate(acc, acc), load(s, x)), None

        return lax.scan(body, (load(tile(), x), tile()), None, length=3)[0][0]

    def used(x):
        def body(carry, _):
            acc, s = carry
            return (accumulate(acc, s), load(s, x)), None

        return lax.scan(body, (load(tile(), x), load(tile(), x)), None, length=3)[0][0]

    with pytest.raises(errors.UnreadInstruction, match="toy.load"):
        Program(scratch, MESH, ((),)).read(TOY, F32)
    accepted(used)


def test_effects_and_released_scratch_are_exempt():
    def kernel(x):
        t = load(tile(), x)
        signal(t)
        low, high = split(tile(), tile(), t)
        release(load(tile(), x))
        return low

    accepted(kernel)
    r = Program(kernel, MESH, ((),)).read(TOY, F32)
    assert (
        "release" not in r.tally.by("count")
        and r.tally.by("count")["toy.load"] == 2 * 2
    )


# --- memory and shapes ---


def test_out_of_memory_at_exactly_the_limit():
    def kernel(x):
        a, b = load(tile(), x), load(tile(), x)
        return store(add(tile(), a, b))  # third tile

    p = Program(kernel, MESH, ((),))
    assert p.memory(with_sbuf(72), F32)["sbuf"] == 3 * 24
    with pytest.raises(errors.OutOfMemory) as caught:
        p.memory(with_sbuf(71), F32)
    for word in ("core", "72 bytes of sbuf", "has 71", line_of(kernel, "# third tile")):
        assert word in str(caught.value)


def test_destination_of_another_size():
    def kernel(x):
        return load(tile(shape=(2, 4)), x)  # wrong size

    refused(
        errors.LimitExceeded, kernel, "# wrong size", "toy.load", "[2, 3]", "[2, 4]"
    )


def test_wrong_number_of_operands():
    told = "toy.load: 1 operand, must be 1 destination and 1 source"
    with pytest.raises(errors.LimitExceeded, match=told):
        load(jnp.zeros((2, 3)))  # type: ignore[call-arg]
