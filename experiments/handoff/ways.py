"""Other ways of one prompt's hand-off, each in one thing another than the plain one."""

import dataclasses
from collections.abc import Iterator

from experiments.handoff.measure import Moved, Prompt, moved
from kernels.formats.formats import FORMATS
from kernels.wse.decode.plan import WaferPlan
from models.machines.handoff import Way
from models.machines.handoff.pages import Paging


def others(prompt: Prompt, plan: WaferPlan, way: Way) -> Iterator[Moved]:
    """The plain way, then the others."""
    replaced = dataclasses.replace
    yield moved(prompt, plan, way, "plain")
    pages = _in_pages(way)
    yield moved(prompt, plan, pages, f"each page of {pages.paging.tokens} tokens alone")
    yield moved(prompt, plan, replaced(way, mode="pull"), "read, not written")
    yield moved(prompt, plan, replaced(way, is_cold=True), "cold connections")
    yield moved(
        prompt, plan, replaced(way, spread="nearest"), "through the nearest link"
    )
    yield moved(prompt, plan, replaced(way, order="wafer"), "the wafer picks its order")
    half = replaced(prompt, reused=prompt.tokens // 2)
    yield moved(half, plan, way, "half the prompt reused")
    wide = FORMATS[prompt.plan.wide]
    if prompt.stored.is_coded:
        stored = replaced(prompt, is_kept_wide=True)
        yield moved(stored, plan, way, f"left in {wide.name}, coded by PEs")
        coded = prompt.plan.cache
        yield moved(stored, plan, way, f"left in {wide.name}, coded by chips", coded)


def _in_pages(way: Way) -> Way:
    """Pages of 16 tokens, as servers keep them, each an operation of its own."""
    return dataclasses.replace(way, paging=Paging(16, is_coalesced=False))


__all__ = ["others"]
