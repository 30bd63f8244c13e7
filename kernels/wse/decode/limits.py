"""What would do where a model does not fit: wafers, and the largest context and number of users.

A limit is found by halving on what is placed, byte by byte, as `plan_wafer` does it: what is told
fits, and one more does not.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from emu.wse.placement.regions import DoesNotFit
from emu.wse.placement.wafers import MOST_WAFERS
from kernels.wse.decode.demand import Demand, layer_bytes
from kernels.wse.decode.pe_bytes import Counted


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of a demand would fit.

    Attributes:
      counted: bytes that have been counted on the wafer.
      planned: the plan of a demand, or None where it does not fit.
    """

    counted: Counted
    planned: Callable[[Demand, Counted], Any]

    def wafers(self, demand: Demand) -> int | None:
        """The fewest wafers that would hold it."""
        plan = self.planned(dataclasses.replace(demand, wafers=None), self.counted)
        return None if plan is None else plan.wafers

    def context(self, demand: Demand) -> int | None:
        """The largest context that would fit, less than the one that does not; None: none does."""
        return self._largest(demand, "context")

    def users(self, demand: Demand) -> int | None:
        """The most users that would fit, likewise."""
        return self._largest(demand, "users")

    def _largest(self, demand: Demand, name: str) -> int | None:
        """The largest number that fits, of those below what was asked for."""

        def fits(number: int) -> bool:
            tried = dataclasses.replace(demand, **{name: number})
            return self.planned(tried, self.counted) is not None

        asked = getattr(demand, name)
        if asked == 1 or not fits(1):
            return None
        low, high = 1, asked
        # `low` fits and `high` does not.
        while high - low > 1:
            middle = (low + high) // 2
            if fits(middle):
                low = middle
            else:
                high = middle
        return low


def refusal(demand: Demand, limits: Limits) -> DoesNotFit:
    """Why nothing fits, and the number of wafers, the context or the users that would do."""
    device = demand.device
    wafers = limits.wafers(demand) if demand.wafers else None
    context, users = limits.context(demand), limits.users(demand)
    pes = device.grid_width * device.grid_height
    had = pes * (device.sram_bytes - device.code_bytes)
    most = min(MOST_WAFERS, len(demand.of_layers) + 1)
    on = f"{demand.wafers} wafers" if demand.wafers else f"up to {most} wafers"
    on = "one wafer" if demand.wafers == 1 else on
    of_users = f" for each of {demand.users:,} users" if demand.users > 1 else ""
    remedies = []
    if wafers:
        remedies.append(f"{wafers} wafers would hold it, cut at layer boundaries")
    if context:
        remedies.append(f"a context of {context:,} tokens would fit {on}")
    if users:
        remedies.append(f"{users:,} users would fit {on}")
    if not remedies:
        remedies.append(_hopeless(demand))
    return DoesNotFit(
        f"{device.name}: the model with a context of {demand.context:,} tokens{of_users} in "
        f"{demand.in_words} needs at least {model_bytes(demand):,} bytes of sram, a wafer has "
        f"{had:,} beside its code, and no cut into regions of at most {device.sram_bytes:,} "
        f"bytes a PE was found on {on}; {'; '.join(remedies)}",
        wafers=wafers,
        context=context,
        users=users,
    )


def _hopeless(demand: Demand) -> str:
    """Why no wafers, context or users would do."""
    device = demand.device
    pes = device.grid_width * device.grid_height
    room = pes * (device.sram_bytes - device.code_bytes)
    largest = max(layer_bytes(demand, kind.form) for kind in demand.kinds)
    if largest > room:
        return (
            f"no number of wafers would do: a layer of {largest:,} bytes is too large for one, and "
            "is not cut"
        )
    return (
        f"no number of wafers up to {MOST_WAFERS} would do: a layer's tiles leave no room in a PE, "
        "or there are too many layers"
    )


def model_bytes(demand: Demand) -> int:
    """Bytes of all weights and caches, without padding, buffers or code."""
    model = demand.model
    table = model.vocab_size * model.hidden_size * jnp.dtype(demand.dtype).itemsize
    total = demand.tables * table
    for kind in demand.of_layers:
        total += layer_bytes(demand, demand.kinds[kind].form)
    return total


__all__ = ["Limits", "model_bytes", "refusal"]
