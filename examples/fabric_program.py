"""A fabric program: a row of PEs adds up x, and the last sum is sent back to all of them."""

# %% program
import numpy as np

from emu.wse import WSE3, FabricProgram, drawn, stepper
from emu.wse.fabric.ops import add, copy, receive, send


def all_reduce(pes, n):
    """The sum of all PEs' `x`, float32 `[n]`, in everybody's `total`."""
    program = FabricProgram(width=pes, height=1)
    x = program.buffer("x", n)
    total = program.buffer("total", n)
    for pe in range(pes):
        # Two colors in turn, so that what a PE receives and what it sends on are told apart.
        ours, theirs = ("red", "blue") if pe % 2 else ("blue", "red")
        last, first = pe == pes - 1, pe == 0
        here = np.s_[0, pe]
        if last:
            work = [copy(send(ours), x[:])]
        else:
            program.route(theirs, here, receive="east", send="ramp")
            sums = total[:] if first else send(ours)
            work = [add(sums, receive(theirs), x[:])]
        if not first:
            program.route(ours, here, receive="ramp", send="west")
        if first:
            program.route("back", here, receive="ramp", send="east")
            work.append(copy(send("back"), total[:]))
        else:
            onward = ["ramp"] if last else ["ramp", "east"]
            program.route("back", here, receive="west", send=onward)
            work.append(copy(total[:], receive("back")))
        program.task("sum", work, here, start=True)
    return program


# %% run
pes, n = 6, 40
x = np.arange(pes * n, dtype=np.float32).reshape(1, pes, n)
run = stepper.run(all_reduce(pes, n), WSE3.at(), {"x": x}, watch=np.s_[0, :])
totals = run.values["total"][0]
print("every PE has the sum:", bool((totals == x[0].sum(axis=0)).all()))
print(f"{run.cycles} cycles, {run.cycles / run.encoded.device.tick_hz * 1e9:.0f} ns")
assert run.stepped is not None  # PEs that are watched are stepped cycle by cycle
print(drawn(run.encoded, run.stepped))

# %% scale
for pes in (2, 4, 8, 16):
    x = np.ones((1, pes, n), np.float32)
    cycles = stepper.run(all_reduce(pes, n), WSE3.at(), {"x": x}).cycles
    print(f"{pes:3} PEs: {cycles} cycles")
