"""When an arg-max along a chain is done: each PE takes a pair in, compares, and then sends.

Unlike a reduce's chain no word goes on before the whole pair has come and code has run. A stage on
a WSE-3: the first word comes 7 cycles after its send, the second a cycle later; a cycle and a drain
of 4 end the receive, compares and branch take 10, a set-up of 4 leads to the next send. In all they
are 7 + 1 + 1 + 4 + 10 + 4 = 27 cycles.
"""

import math

import numpy as np

from emu.datasheet import Device
from emu.instruction import Crossing, Operand
from emu.wse.timeline.calls import Call, Ends, Mesh
from emu.wse.timeline.times import Times
from emu.wse.timeline.wires import Wires

PAIR_WORDS = 2  # wavelets of a value and its index


def compare_cycles(device: Device) -> float:
    """Two dependent compares and a branch."""
    return 2 * device.scalar_cycles + device.branch_cycles


def arrival(
    device: Device,
    mesh: Mesh,
    crossing: Crossing,
    *operands: Operand,
    axis: str,
    size: int,
) -> Ends:
    """The arrival rule of `wse.chain_argmax`."""
    index = operands[-1]
    here = Call.on(device, mesh, crossing, index, axis=axis, group=size)
    # A sheet's cycles may be fractions; a PE dispatches at whole ones.
    compare = math.ceil(compare_cycles(device))
    return here.ends(relay(here.armed, PAIR_WORDS, compare, here.wires))


def relay(
    armed: Times,
    words: int,
    between_cycles: int,
    wires: Wires,
) -> Times:
    """When each PE can dispatch what follows, where each takes everything in, works and sends.

    Args:
      armed: when each PE could dispatch its first operation; PE 0 is the root.
      words: wavelets of each stream, few enough that nobody stalls.
      between_cycles: scalar code between the receive and the send.
      wires: of the fabric.
    """
    pes = armed.shape[1]
    if pes == 1:
        return armed
    done = np.empty_like(armed)
    sending = wires.sending(words)
    sent = armed[:, -1] + wires.setup_cycles  # the last PE's first element
    done[:, -1] = wires.dispatch_after(sent + sending)
    for pe in range(pes - 2, -1, -1):
        ready = armed[:, pe] + wires.setup_cycles
        came = sent + wires.latency(1)
        taken = np.maximum(ready, came)
        received = wires.dispatch_after(taken + wires.span(words))
        compared = received + between_cycles
        sent = compared + wires.setup_cycles
        # The root has nobody to send to, and goes on after its compares.
        is_root = pe == 0
        done[:, pe] = compared if is_root else wires.dispatch_after(sent + sending)
    return done


__all__ = ["PAIR_WORDS", "arrival", "compare_cycles", "relay"]
