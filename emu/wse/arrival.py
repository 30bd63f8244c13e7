"""When data that crosses the fabric arrives: HPDC'24's laws, for any skew between the PEs' starts.

Arrays are `int64[groups, n, rest]` ticks (one tick is one cycle): `n` PEs take part in each
group, `rest` lines of the mesh do the same at once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.datasheet import Device


class Lines:
    """A mesh seen as groups of consecutive PEs along one axis, of which every `stride`-th counts.

    Args:
      mesh: axis name to size.
      axis: along which the data moves.
      group: consecutive PEs in one group; divides the axis.
      stride: distance between the members of a group; divides `group`.
    """

    def __init__(self, mesh: Mapping[str, int], axis: str, group: int, stride: int = 1):
        self.grid = tuple(mesh.values())
        self.at = list(mesh).index(axis)
        self.group, self.stride = group, stride

    def take(self, x: Any) -> np.ndarray:
        """The members' entries of an array broadcastable to the mesh."""
        full = np.moveaxis(np.broadcast_to(np.asarray(x, np.int64), self.grid), self.at, 0)
        return full.reshape(-1, self.group, full[0].size)[:, :: self.stride]

    def put(self, x: Any, members: np.ndarray) -> np.ndarray:
        """A copy of `x` over the mesh with the members' entries replaced."""
        full = np.moveaxis(np.broadcast_to(np.asarray(x, np.int64), self.grid), self.at, 0)
        out = full.reshape(-1, self.group, full[0].size).copy()
        out[:, :: self.stride] = members
        return np.moveaxis(out.reshape(full.shape), 0, self.at)


def queue_words(device: Device) -> int:
    """Wavelets that wait between two neighbours before the sender stalls."""
    return int(device.output_queue_words[-1] + device.input_queue_words[-1])


def chain_stage_cycles(device: Device, stride: int) -> int:
    """From one PE's first wavelet to that of the next of a chain: ramps, hops and the add."""
    return 2 * device.ramp_cycles + device.hop_cycles * stride + 1


def chain(
    armed: np.ndarray, words: np.ndarray, stage: int, queue: int
) -> tuple[np.ndarray, np.ndarray]:
    """Done and free times of a chain towards member 0; equal starts give B + stage (n - 1).

    A member emits its first word when it is armed and `stage` after its upstream neighbour's
    first. It stalls while more words than the queues hold wait at a neighbour not yet armed.

    Args:
      armed: when each member could start.
      words: wavelets each member sends.
      stage: cycles from one member's first word to the next one's.
      queue: words that wait between two members.
    """
    at = np.arange(armed.shape[1])[:, None]
    reach = (armed + stage * at)[:, ::-1]
    first = np.maximum.accumulate(reach, axis=1)[:, ::-1] - stage * at
    sent = first + words
    slack = (stage + queue) * at
    stalled = np.maximum.accumulate(sent + slack, axis=1) - slack
    return sent, np.where(words > queue, stalled, sent)


def multicast(armed: np.ndarray, words: np.ndarray, hop: int, ramp: int, queue: int) -> np.ndarray:
    """When member 0's words reached each member; equal starts give B + hop (n - 1) + 2 ramp.

    A message longer than the queues goes at the pace of the last receiver to be armed.
    """
    away = hop * np.arange(armed.shape[1])[:, None] + 2 * ramp
    away[0] = 0
    head = armed[:, :1]
    waits = (armed - away - queue).max(axis=1, keepdims=True)
    head = np.where(words > queue, np.maximum(head, waits), head)
    return np.maximum(armed, head + away) + words


__all__ = ["Lines", "chain", "chain_stage_cycles", "multicast"]
