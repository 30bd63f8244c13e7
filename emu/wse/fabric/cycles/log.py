"""The cycle stepper's log of some PEs: written inside the compiled loop, read out after each chunk.

A PE is *watched* for its dispatches and issues, *traced* for what each of its threads does too.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.wse.fabric.cycles.cycle import HEARD
from emu.wse.fabric.cycles.states import states
from emu.wse.fabric.cycles.tables import Shape
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.program import merging

ROWS = (16, 2048)  # cycles a chunk logs, at least and at most
ENTRIES = 1 << 22  # and how many entries about
Arrays = dict[str, Any]
Listener = Callable[[int, np.ndarray, np.ndarray], None]


class Log:
    """What is kept of a run.

    Args:
      e: the program.
      shape: of its machine.
      watch, traced: flat indices of PEs, or None.
      listen: hears all PEs' dispatches and issues, without their being kept: after each chunk it is
        given the chunk's first cycle, rows (cycle, PE, instruction) and `int8[cycles, PEs]`, the
        thread that each datapath served, or NONE.
    """

    def __init__(
        self, e: Encoded, shape: Shape, watch: Any, traced: Any, listen: Listener | None
    ):
        none = np.zeros(0, np.int32)
        self.traced = (
            none if traced is None else np.unique(np.asarray(traced, np.int32))
        )
        kept = none if watch is None else np.asarray(watch, np.int32)
        self.watch = np.union1d(kept, self.traced) if len(self.traced) else kept
        self.listen, self.threads = listen, shape.threads
        self.logged = (
            self.watch if listen is None else np.arange(shape.pes, dtype=np.int32)
        )
        self.merges_at = _merging(e) if len(self.watch) else np.zeros((0, 2), np.int32)
        self.rows = int(np.clip(ENTRIES // max(1, len(self.logged)), *ROWS))
        self.order = [np.zeros((0, 3), np.int64)]
        self.issues = [np.zeros((0, len(self.watch)), np.int8)]
        self.merges = [np.zeros((0, 3), np.int64)]
        self.states = [np.zeros((0, shape.threads, len(self.traced)), np.int8)]

    def places(self) -> Arrays:
        """Which PEs, and routers that merge, the compiled loop logs."""
        found = {"pes": self.logged, "traced": self.traced, "merges": self.merges_at}
        return {k: jnp.asarray(v) for k, v in found.items() if len(v)}

    def blank(self) -> Arrays:
        """Arrays for one chunk, a row a cycle."""
        rows, out = self.rows, {}
        if len(self.logged):
            out["pc"] = jnp.full((rows, 2, len(self.logged)), NONE, jnp.int32)
            out["issues"] = jnp.full((rows, len(self.logged)), NONE, jnp.int8)
        if len(self.traced):
            out["states"] = jnp.zeros((rows, self.threads, len(self.traced)), jnp.int8)
        if len(self.merges_at):
            out["turns"] = jnp.full((rows, len(self.merges_at)), NONE, jnp.int8)
        return out

    def take(self, written: Arrays, begin: int, end: int) -> None:
        """Keeps a chunk's rows, those of cycles `begin` up to `end`."""
        chunk = {k: np.asarray(v)[: end - begin] for k, v in written.items()}
        if "pc" in chunk:
            rows = _events(chunk["pc"], begin, self.logged)
            issues = chunk["issues"]
            if self.listen is not None:
                self.listen(begin, rows, issues)
                rows = rows[np.isin(rows[:, 1], self.watch)]
                issues = issues[:, self.watch]
            self.order.append(rows)
            self.issues.append(issues.copy())
        if "states" in chunk:
            self.states.append(chunk["states"].copy())
        if "turns" in chunk:
            self.merges.append(_turns(chunk["turns"], self.merges_at))

    def kept(self) -> Arrays:
        """Fields of `cycle_run.Cycles`."""
        lists = {
            "order": self.order,
            "issues": self.issues,
            "merges": self.merges,
            "states": self.states,
        }
        out = {k: np.concatenate(v) for k, v in lists.items()}
        return out | {"watch": self.watch, "traced": self.traced}


def write(
    shape: Shape, log: Arrays, places: Arrays, seen: Arrays, t: Any, row: Any
) -> Arrays:
    """The log with one more cycle in its row."""
    new = {}
    if "pc" in log:
        heard = seen["heard"][places["pes"]]
        pc = jnp.where(seen["due"][places["pes"]], seen["pc"][places["pes"]], NONE)
        new["pc"] = jnp.stack([pc, jnp.where(heard >= 0, HEARD - heard, NONE)])
        new["issues"] = _thread(seen["issues"], places["pes"])
    if "states" in log:
        new["states"] = states(shape, seen, t, places["traced"])
    if "turns" in log:
        color, pe = places["merges"].T
        new["turns"] = jnp.stack(list(seen["turns"]))[color, pe]
    at = lambda k: (row, *[0] * (log[k].ndim - 1))  # noqa: E731
    return {k: lax.dynamic_update_slice(log[k], v[None], at(k)) for k, v in new.items()}


def _thread(issues: Any, watch: Any) -> Any:
    """The thread that issued on each watched PE, or NONE."""
    out = jnp.full(watch.shape, NONE, jnp.int8)
    for u in range(len(issues)):
        out = jnp.where(issues[u][watch], jnp.int8(u), out)
    return out


def _events(log: np.ndarray, begin: int, pes: np.ndarray) -> np.ndarray:
    """A chunk's log as rows (cycle, PE, instruction); a data task's start precedes its code."""
    log = log[:, ::-1]  # the wavelet is heard before the code is dispatched
    row, which, at = np.nonzero(log != NONE)
    return np.stack(
        [row + begin, pes[at].astype(np.int64), log[row, which, at]], axis=1
    )


def _merging(e: Encoded) -> np.ndarray:
    """`int32[routers, 2]`: color and flat PE of each router that merges streams."""
    rows = [np.zeros((0, 2), np.int64)]
    for c in e.program.colors.values():
        pes = merging(c)
        rows.append(np.stack([np.full(len(pes), c.index), pes], axis=1))
    return np.concatenate(rows).astype(np.int32)


def _turns(log: np.ndarray, merges_at: np.ndarray) -> np.ndarray:
    """A chunk's log as rows (PE, color, direction)."""
    row, at = np.nonzero(log != NONE)
    return np.stack([merges_at[at, 1], merges_at[at, 0], log[row, at]], axis=1).astype(
        np.int64
    )


__all__ = ["Listener", "Log", "write"]
