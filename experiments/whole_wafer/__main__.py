"""The command line of `experiments.whole_wafer`."""

import argparse
import dataclasses
import pathlib
import resource
import time
from typing import Any

import numpy as np
from rich.console import Console

from emu.datasheet import Device
from emu.given import told
from emu.wse import WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.encoding.checks import check_memory
from emu.wse.fabric.encoding.encode import encode
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from experiments.shared import cli, numbers
from experiments.shared.errors import UsageError
from experiments.shared.output import Figures, Output
from experiments.whole_wafer import layer
from kernels.wse.programs import wafer_gemv
from kernels.wse.programs.wafer_gemv import WaferGemv

SIZE = 4096
WHOLE = "755x1170"
CONTEXT = 4096
PLAIN = 128  # rows and columns of the fabric that is stepped cycle by cycle
RUNS = 3
# Of the largest output: float32 sums of some thousand exact float16 products.
TOLERANCE = 1e-5
SEED = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What a rectangle gave.

    Attributes:
      gemv: its sizes.
      run: of the stepper.
      wall_s: of the run, without building the program and its data.
      timeline_cycles: the same GEMV read by the timeline.
      error: largest error of an output against float64, over the largest output.
      beyond_sram_bytes: host memory a PE that the run took besides what the PEs hold.
    """

    gemv: WaferGemv
    run: Run
    wall_s: float
    timeline_cycles: int
    error: float
    beyond_sram_bytes: float

    @property
    def rate(self) -> float:
        """PE-cycles a second."""
        return self.run.cycles * self.gemv.rows * self.gemv.cols / self.wall_s


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "--size",
        type=cli.whole_number("size", 1),
        default=SIZE,
        help=f"rows and columns of the matrix ({SIZE})",
    )
    parser.add_argument(
        "--pes",
        help=f"columns x rows of PEs ({WHOLE}, the whole wafer; of a layer its plan's region)",
    )
    parser.add_argument(
        "--layer",
        metavar="MODEL",
        help="in place of a GEMV, one decode layer of a model of the catalogue, such as "
        "llama-3.1-8b, stepped cycle by cycle on its whole region",
    )
    parser.add_argument(
        "--context",
        type=cli.whole_number("context", 1),
        default=CONTEXT,
        help=f"with --layer, tokens in its cache ({CONTEXT})",
    )
    parser.add_argument(
        "--path",
        default="auto",
        type=cli.one_of("--path", stepper.PATHS),
        help=f"how to step it: {', '.join(stepper.PATHS)}; cycles takes minutes on a whole "
        "wafer (auto)",
    )


def rectangle(text: str, device: Device) -> tuple[int, int]:
    """Rows and columns of a rectangle named `COLUMNSxROWS`.

    Raises:
      UsageError: it is none, or larger than the wafer.
    """
    parts = text.lower().split("x")
    try:
        cols, rows = (numbers.whole("--pes", part, 1) for part in parts)
    except ValueError:
        raise UsageError(
            f"--pes is {told(text)}, must be columns x rows such as 755x1170"
        ) from None
    if cols > device.grid_width or rows > device.grid_height:
        raise UsageError(
            f"--pes is {text!r}, {device.name} has at most {device.grid_width}x{device.grid_height}"
        )
    return rows, cols


def data(gemv: WaferGemv) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The PEs' buffers, and x and w as they were before they were dealt to the PEs."""
    rng = np.random.default_rng(SEED)
    dtype = np.dtype(gemv.dtype)
    vector = rng.standard_normal(gemv.k).astype(dtype)
    wide = rng.standard_normal((gemv.k, gemv.n), np.float32) / np.sqrt(gemv.k)
    matrix = wide.astype(dtype)
    xs, ws = gemv.tiles(vector, matrix)
    # x starts in the first column alone.
    first = np.arange(gemv.cols)[None, :, None] == 0
    held = np.where(first, xs[:, None], dtype.type(np.nan))
    return {"x": held, "w": ws.reshape(gemv.rows, gemv.cols, -1)}, vector, matrix


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_bytes() -> int:
    """Memory in use now; where the system does not tell, the most there has been."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak_bytes()
    return pages * resource.getpagesize()


def measure(gemv: WaferGemv, device: Device, path: str, told: Any = None) -> Result:
    """Steps the GEMV and compares it with float64 and with the timeline."""
    program = wafer_gemv.fabric_program(gemv, device)
    # Before the data is drawn, which of a program that does not fit could be terabytes.
    check_memory(program, device)
    held, vector, matrix = data(gemv)
    before = _resident_bytes()
    begin = time.perf_counter()
    run = stepper.run(program, device, held, path=path, progress=told)
    wall_s = time.perf_counter() - begin
    values_bytes = sum(array.nbytes for array in run.values.values())
    beyond = max(0, _peak_bytes() - before - values_bytes)
    answer = vector.astype(np.float64) @ matrix.astype(np.float64)
    product = run.values["y"][0].reshape(-1)[: gemv.n]
    kernel = wafer_gemv.kernel_program(gemv, device)
    clock = kernel.read(device, *wafer_gemv.arguments(gemv))
    largest_error = np.abs(product - answer).max()
    error = float(largest_error / np.abs(answer).max())
    beyond_a_pe = beyond / (gemv.rows * gemv.cols)
    return Result(gemv, run, wall_s, clock.end_ticks, error, beyond_a_pe)


def plain_rate(program: FabricProgram, device: Device) -> tuple[int, float]:
    """Cycles of a program and PE-cycles a second, stepped cycle by cycle, compiled before.

    The best of several runs: what else the machine does can only slow one down.
    """
    encoded = encode(program, device)
    cycle_run.run(encoded)
    walls = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        cycles = cycle_run.run(encoded).cycles
        walls.append(time.perf_counter() - begin)
    return cycles, cycles * program.width * program.height / min(walls)


def show(result: Result, device: Device, console: Console) -> None:
    """Prints what the whole rectangle gave."""
    gemv = result.gemv
    run = result.run
    pes = gemv.cols * gemv.rows
    microseconds = run.cycles / device.clock_hz * 1e6
    console.print(
        f"{gemv.k}x{gemv.n} {gemv.dtype} GEMV on {gemv.cols}x{gemv.rows} = {pes} PEs "
        f"of {device.name} ({device.constants}): {run.cycles} cycles, "
        f"{microseconds:.2f} us at {device.clock_hz / 1e9:.2f} GHz"
    )
    same = result.timeline_cycles == run.cycles
    told = "equal" if same else "DIFFERENT"
    console.print(f"timeline: {result.timeline_cycles} cycles, {told}")
    console.print(
        f"largest error against float64: {result.error:.1e} of the largest output "
        f"(tolerance {TOLERANCE:.0e})"
    )
    way = ""
    if run.why and run.why != stepper.ASKED:
        way = f" ({run.why})"
    console.print(
        f"{result.rate:.1e} PE-cycles/s by {run.path}{way}, {result.wall_s:.1f} s; "
        f"{result.beyond_sram_bytes:.0f} bytes of host memory a PE beyond its SRAM's "
        "content"
    )


def as_json(result: Result, device: Device) -> Figures:
    """What the rectangle gave, by name."""
    gemv, run = result.gemv, result.run
    return {
        "device": device.name,
        "rows_of_matrix": gemv.k,
        "columns_of_matrix": gemv.n,
        "dtype": gemv.dtype,
        "columns_of_pes": gemv.cols,
        "rows_of_pes": gemv.rows,
        "cycles": run.cycles,
        "seconds": run.cycles / device.clock_hz,
        "timeline_cycles": result.timeline_cycles,
        "error": result.error,
        "tolerance": TOLERANCE,
        "path": run.path,
        "wall_s": result.wall_s,
        "pe_cycles_per_s": result.rate,
        "host_bytes_a_pe_beyond_sram": result.beyond_sram_bytes,
    }


def main(args: argparse.Namespace, output: Output) -> None:
    """Steps the GEMV on the rectangle, then a smaller one cycle by cycle."""
    device = WSE3.at()
    console = Console(highlight=False, soft_wrap=True)
    status = console.status("working it out")
    if args.layer is not None:
        chosen = None if args.pes is None else rectangle(args.pes, device)
        if console.is_terminal:
            status.start()
        found = layer.measure(
            args.layer,
            args.context,
            device,
            chosen,
            lambda cycle: status.update(f"cycle {cycle}"),
        )
        status.stop()
        layer.show(found, device, console)
        layer.report(found, device, output)
        return
    rows, cols = rectangle(args.pes or WHOLE, device)
    if console.is_terminal:
        status.start()
    gemv = WaferGemv(args.size, args.size, rows, cols)
    result = measure(
        gemv, device, args.path, lambda cycle: status.update(f"cycle {cycle}")
    )
    status.stop()
    show(result, device, console)
    side = min(PLAIN, rows, cols)
    plain = WaferGemv(4 * side, 4 * side, side, side)
    cycles, rate = plain_rate(wafer_gemv.fabric_program(plain, device), device)
    console.print(
        f"{rate:.1e} PE-cycles/s cycle by cycle, on {side}x{side} PEs ({cycles} cycles)"
    )
    by_cycles = {"side_of_pes": side, "cycles": cycles, "pe_cycles_per_s": rate}
    figures = {**as_json(result, device), "cycle_by_cycle": by_cycles}
    output.figures("whole_wafer", figures)
    flat = {**as_json(result, device)}
    output.table("whole_wafer", flat, [tuple(flat.values())])
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.fabric.picture import pictures

        title = f"{gemv.k}x{gemv.n} {gemv.dtype} GEMV"
        for name, draw in pictures(result.run, title).items():
            output.file(name, draw)
    if result.timeline_cycles != result.run.cycles or result.error > TOLERANCE:
        raise UsageError(
            "stepper, timeline and float64 do not agree; see the lines above"
        )


if __name__ == "__main__":
    cli.run("whole_wafer", options, main)
