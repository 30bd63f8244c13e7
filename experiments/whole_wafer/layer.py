"""One decode layer on its whole region, stepped: values against the mesh, cycles against the clock.

Its kernel is translated into a fabric program (`emu.wse.from_kernel`); the mesh's numbers and the
timeline's cycles are of the kernel itself.
"""

import dataclasses
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from emu import Known
from emu.datasheet import Device
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles.profile import STATES
from emu.wse.fabric.result import Run
from emu.wse.from_kernel import translated
from experiments.shared.errors import UsageError
from experiments.shared.output import Figures, Output
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.plan import plan_wafer
from models.catalogue import find

DTYPE = "bfloat16"
SEED = 0
SAMPLE = 64
"""PEs whose values are compared, besides those of the corners."""
IN_WORDS = {
    "code": "instructions within the PE",
    "datapath": "moving and adding words",
    "set-up": "set-up of fabric operations",
    "waiting for wavelets": "waiting for words",
    "queue full": "waiting for room",
    "idle": "no task",
}
"""What a PE does in a cycle, as it is told here; to the stepper a kernel's instruction is code."""
NEGLECTED = 0.01
"""Of a layer's cycles, that by which stepper and timeline may differ: words of two colors that want
one link take turns, which the timeline's formulas neglect (`emu/wse/collectives/reduce`)."""


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """What a layer's region gave.

    Attributes:
      model, context: whose layer, and of how many tokens its cache has room.
      layer: on which PEs.
      timeline_cycles: as the clock reads them.
      run: of the stepper.
      cpu_s, wall_s: of translation, stepping and values.
      checked, equal: PEs whose results were compared with the mesh's, and of those the ones where
        all bits are equal.
    """

    model: str
    context: int
    layer: LayerMap
    timeline_cycles: int
    run: Run
    cpu_s: float
    wall_s: float
    checked: int
    equal: int

    @property
    def pes(self) -> int:
        return self.layer.rows * self.layer.cols

    @property
    def rate(self) -> float:
        """PE-cycles a CPU second, of all that was done."""
        return self.run.cycles * self.pes / self.cpu_s

    @property
    def difference(self) -> float:
        """Of the stepper's cycles, by how much the timeline's are less."""
        return (self.run.cycles - self.timeline_cycles) / self.run.cycles

    @property
    def agrees(self) -> bool:
        return self.checked == self.equal and abs(self.difference) <= NEGLECTED

    def shares(self) -> dict[str, float]:
        """Of all PEs' cycles the part that each cause takes, the kernel's PEs alone."""
        region = np.s_[-self.layer.rows :, -self.layer.cols :]
        total = self.run.cycles * self.pes
        return {
            IN_WORDS[state]: float(self.run.profile[state][region].sum()) / total
            for state in STATES
        }


def layer_of(
    model: str, context: int, device: Device, rectangle: tuple[int, int] | None
) -> LayerMap:
    """A model's layer on the region that its plan gives it, or on one of rows and columns."""
    config = find(model)
    layer = plan_wafer(config, context, DTYPE, device).kinds[0].map
    if rectangle is None:
        return layer
    rows, cols = rectangle
    if cols % layer.kv_heads or layer.head_dim // 2 % (cols // layer.kv_heads):
        raise UsageError(
            f"--pes has {cols} columns, {model} takes {layer.kv_heads} times a divisor of "
            f"{layer.head_dim // 2}"
        )
    return dataclasses.replace(layer, rows=rows, parts=cols // layer.kv_heads)


def arguments(layer: LayerMap) -> tuple[Any, ...]:
    """Random arguments of a layer's program, for the last token that its cache has room for."""
    rng = np.random.default_rng(SEED)
    pos = layer.context - 1
    shapes = layer_arguments(layer, pos, 0)

    def drawn(leaf: Any) -> Any:
        if isinstance(leaf, Known):
            return leaf
        # Sums over the first of a tile's own dimensions stay near one.
        scale = np.float32(max(1, layer.hidden) ** -0.5 if leaf.ndim == 4 else 1)
        return jnp.asarray(
            rng.standard_normal(leaf.shape, np.float32) * scale, leaf.dtype
        )

    return jax.tree.map(drawn, shapes, is_leaf=lambda leaf: isinstance(leaf, Known))


def sampled(layer: LayerMap) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the PEs whose values are compared."""
    pes = layer.rows * layer.cols
    drawn = np.random.default_rng(SEED).choice(pes, min(SAMPLE, pes), replace=False)
    corners = [0, layer.cols - 1, pes - layer.cols, pes - 1]
    return np.divmod(np.union1d(drawn, corners), layer.cols)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(
    model: str,
    context: int,
    device: Device,
    rectangle: tuple[int, int] | None = None,
    told: Callable[[int], None] | None = None,
) -> LayerResult:
    """Steps a layer on its region, and compares it with the mesh and with the timeline."""
    layer = layer_of(model, context, device, rectangle)
    program = layer_program(layer)
    given = arguments(layer)
    clock = program.read(device, *given)
    mesh = jax.tree.leaves(program.run(*given))
    begin_cpu, begin = _cpu_s(), time.perf_counter()
    fabric = translated(program, device, *given)
    run = stepper.run(
        fabric.program,
        device,
        fabric.data(*given),
        path="cycles",
        profile=True,
        links=True,
        progress=told,
    )
    cpu_s, wall_s = _cpu_s() - begin_cpu, time.perf_counter() - begin
    stepped = jax.tree.leaves(fabric.results(run, *given))
    at = sampled(layer)
    same = np.ones(len(at[0]), bool)
    for ours, theirs in zip(stepped, mesh, strict=True):
        pair = [np.ascontiguousarray(np.asarray(x)[at]) for x in (ours, theirs)]
        ours_bytes, theirs_bytes = (
            x.view(np.uint8).reshape(len(same), -1) for x in pair
        )
        same &= (ours_bytes == theirs_bytes).all(axis=1)
    return LayerResult(
        model=model,
        context=context,
        layer=layer,
        timeline_cycles=clock.end_ticks,
        run=run,
        cpu_s=cpu_s,
        wall_s=wall_s,
        checked=len(same),
        equal=int(same.sum()),
    )


def show(result: LayerResult, device: Device, console: Console) -> None:
    """Prints what the region gave."""
    run, layer = result.run, result.layer
    console.print(
        f"a layer of {result.model} in {DTYPE}, token {result.context:,} of {result.context:,}, on "
        f"{layer.cols}x{layer.rows} = {result.pes} PEs of {device.name} ({device.constants}): "
        f"{run.cycles} cycles, {run.cycles / device.clock_hz * 1e6:.2f} us at "
        f"{device.clock_hz / 1e9:.2f} GHz"
    )
    less = run.cycles - result.timeline_cycles
    told = "equal"
    if less:
        told = (
            f"{less} less ({100 * result.difference:.2f} %): words of two colors that want one "
            "link take turns, which its formulas neglect"
        )
    console.print(f"timeline: {result.timeline_cycles} cycles, {told}")
    console.print(
        f"values: on {result.equal} of {result.checked} sampled PEs all bits are the mesh's"
    )
    console.print(
        f"{result.rate:.1e} PE-cycles/s by {run.path}, {result.wall_s:.1f} s "
        f"({result.cpu_s:.1f} of a processor), translation, compilation and values included"
    )
    shares = result.shares()
    parts = [f"{what} {100 * share:.1f} %" for what, share in shares.items() if share]
    console.print(f"of all PEs' cycles: {', '.join(parts)}")


def as_json(result: LayerResult, device: Device) -> Figures:
    """What the region gave, by name."""
    return {
        "device": device.name,
        "model": result.model,
        "context": result.context,
        "dtype": DTYPE,
        "columns_of_pes": result.layer.cols,
        "rows_of_pes": result.layer.rows,
        "cycles": result.run.cycles,
        "seconds": result.run.cycles / device.clock_hz,
        "timeline_cycles": result.timeline_cycles,
        "sampled_pes": result.checked,
        "sampled_pes_equal": result.equal,
        "path": result.run.path,
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_s,
        "pe_cycles_per_s": result.rate,
        "shares_of_cycles": result.shares(),
    }


def report(result: LayerResult, device: Device, output: Output) -> None:
    """Figures, a table and pictures; an error where the three do not agree."""
    figures = as_json(result, device)
    output.figures("whole_wafer", figures)
    shares = figures.pop("shares_of_cycles")
    flat = {**figures, **shares}
    output.table("whole_wafer", flat, [tuple(flat.values())])
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.fabric.picture import pictures

        for name, draw in pictures(result.run, f"a layer of {result.model}").items():
            output.file(name, draw)
    if not result.agrees:
        raise UsageError("stepper, timeline and mesh do not agree; see the lines above")


__all__ = ["LayerResult", "measure", "report", "show"]
