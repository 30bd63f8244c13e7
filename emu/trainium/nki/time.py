"""The time of an NKI kernel as it stands in its author's file, on a machine that is not there."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from emu import progress
from emu.datasheet import Device
from emu.errors import NkiError, OutOfMemory
from emu.given import told
from emu.trainium.datasheets import GENERATIONS
from emu.trainium.nki.passes import PASSES, compiled, side_by_side, spill
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.fit import fitted
from emu.trainium.nki.passes.memory import memory
from emu.trainium.nki.program import program
from emu.trainium.nki.record import record
from emu.trainium.nki.report import COMPILED, LITERAL, READINGS, Report
from emu.trainium.nki.stubs import NEW, OLD
from emu.trainium.nki.terms import check
from emu.trainium.nki.tree import Recorded
from emu.trainium.timed import Timed, check_arguments

# Which reading is meant when none is named: the compiler of the older generation reorders what a
# kernel says, that of the newer keeps the kernel's order.
DEFAULT_READING = {OLD: COMPILED, NEW: LITERAL}


def nki_time(
    kernel: Callable[..., Any],
    arguments: Sequence[Any] | Mapping[str, Any],
    device: str = "trn2",
    *,
    keywords: Mapping[str, Any] | None = None,
    reading: str | None = None,
    grid: int | tuple[int, ...] = (),
    api: str | None = None,
    skip: Collection[str] = (),
    title: str | None = None,
) -> Report:
    """Times a kernel without the machine; values can be asked of the report.

    Example: `print(nki_time(softmax, [jax.ShapeDtypeStruct((4096, 512), "bfloat16")], "trn1"))`.

    Args:
      kernel: decorated with `nki.jit` or not.
      arguments: arrays, or shapes with dtypes, and what else the kernel takes: in order, or by
        name.
      device: `trn1`, `trn2` or `trn3`.
      keywords: further arguments by name.
      reading: `literal` keeps the kernel's order and one or two buffers for each tile; `compiled`
        does what the vendor's compiler visibly does. By default that of the kernel's generation.
      grid: of the launch, as in `kernel[grid](...)`; a kernel that already has one keeps it.
      api: `neuronxcc.nki` or `nki`, for a function without a decorator.
      skip: passes of the compiled reading that are left out.
      title: what reports call it, by default the function's name.

    Returns:
      The report; `report.other` is the other reading.

    Raises:
      EmulationError: the kernel breaks a rule of NKI or does not fit, with its file and line.
    """
    if device not in GENERATIONS:
        names = ", ".join(GENERATIONS)
        raise NkiError(f"device is {told(device)}, must be one of {names}")
    if reading is not None and reading not in READINGS:
        raise NkiError(f"reading is {told(reading)}, must be {' or '.join(READINGS)}")
    unknown = [name for name in skip if name not in PASSES]
    if unknown:
        names = ", ".join(PASSES)
        raise NkiError(f"skip names {', '.join(unknown)}, passes are {names}")
    positional, named = _split(arguments)
    recorded = record(
        kernel,
        positional,
        api=getattr(kernel, "api", None) or api or OLD,
        device=device,
        grid=_grid(kernel, grid),
        keywords={**named, **(keywords or {})},
    )
    name = title or recorded.name
    chosen = reading or DEFAULT_READING[recorded.api]
    other = LITERAL if chosen == COMPILED else COMPILED
    return _report(
        recorded,
        device,
        chosen,
        name,
        skip,
        _report(recorded, device, other, name, skip),
    )


def _split(
    arguments: Sequence[Any] | Mapping[str, Any],
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(arguments, Mapping):
        return (), arguments
    return arguments, {}


def _grid(kernel: Callable[..., Any], grid: int | tuple[int, ...]) -> tuple[int, ...]:
    own: tuple[int, ...] = getattr(kernel, "grid", ())
    if own:
        return own
    return (grid,) if isinstance(grid, int) else tuple(grid)


def _report(
    recorded: Recorded,
    device: str,
    reading: str,
    title: str,
    skip: Collection[str],
    other: Report | None = None,
) -> Report:
    sheet = GENERATIONS[device]
    arguments = tuple(
        jax.ShapeDtypeStruct(tensor.shape, jnp.dtype(tensor.dtype))
        for tensor in recorded.inputs
    )
    check_arguments(arguments, sheet)
    with progress.stage(f"{reading} reading of the kernel"):
        if reading == COMPILED:
            recorded, effects = _fastest(recorded, sheet.at(), arguments, skip)
        else:
            # What does not fit on the chip is spilled in either reading, or there would be none.
            left_out = set(PASSES) - {spill.NAME}
            recorded, effects = compiled(recorded, sheet.at(), left_out)
            recorded = fitted(recorded, memory(sheet.at()))
    timed = Timed(
        title=title,
        sheet=sheet,
        program=program(recorded, depths=recorded.depths),
        arguments=arguments,
    )
    if other is not None:
        # The reading that was asked for: what is wrong with the kernel is told here.
        check(recorded, timed.program, sheet.at(), *arguments)
    return Report(
        kernel=title,
        api=recorded.api,
        device=device,
        reading=reading,
        recorded=recorded,
        timed=timed,
        effects=tuple(effects),
        other=other,
    )


def _fastest(
    recorded: Recorded,
    device: Device,
    arguments: tuple[jax.ShapeDtypeStruct, ...],
    skip: Collection[str],
) -> tuple[Recorded, list[Effect]]:
    """The compiled reading with turns side by side, or without where the clock says so.

    That pass estimates what it gains before it is known how many buffers each ring gets. The clock
    is asked whether the gain was there: a compiler does not keep what makes a kernel slower.
    """
    found = compiled(recorded, device, skip)
    turns = side_by_side.NAME
    stays = Effect(turns, side_by_side.NONE) in found[1]
    if stays or turns in skip or found[0].cores is not None:
        return found
    plain = compiled(recorded, device, {*skip, turns})
    together, apart = (_ticks(each, device, arguments) for each, _ in (found, plain))
    if apart is None or (together is not None and together <= apart):
        return found
    told = "left out: it does not fit"
    if together is not None:
        told = f"left out: {together / apart:.2f} times as slow by the clock"
    return plain[0], [*plain[1], Effect(turns, told)]


def _ticks(
    recorded: Recorded, device: Device, arguments: tuple[jax.ShapeDtypeStruct, ...]
) -> int | None:
    """The kernel's time; None where it does not fit."""
    timed = program(recorded, depths=recorded.depths)
    try:
        return timed.read(device, *arguments).end_ticks
    except OutOfMemory:
        return None


__all__ = ["DEFAULT_READING", "nki_time"]
