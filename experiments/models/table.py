"""The models as a table, and as rows of a file."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.models.sizes import BYTES_OF_A_WEIGHT, Sizes

HEADING = (
    "model",
    "family",
    "parameters",
    "published_parameters",
    "error",
    "active_parameters",
    *(f"{precision}_bytes" for precision in BYTES_OF_A_WEIGHT),
    "cache_bytes_a_token",
    "context_tokens",
    "cache_bytes",
    *(f"{precision}_chips" for precision in BYTES_OF_A_WEIGHT),
    *(f"{precision}_wafers" for precision in BYTES_OF_A_WEIGHT),
    "computed_by",
    "source",
)
LEGEND = """\
error: of the parameters, over what the authors publish, in as many digits as they do; active: those
that a token meets, embedding and head included; KV: bytes by which a token lengthens the cache in
bfloat16, and the cache of one sequence of the asked length; chips: the fewest Trainium3 whose HBM
holds weights and that cache; wafers: the fewest WSE-3 whose SRAM does, if every byte of every PE
were free; numbers: what computes the model on numbers, nothing where only its sizes are known"""


def show(models: Sequence[Sizes], console: Console) -> None:
    """Prints the models."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "family", "numbers"):
        table.add_column(name, no_wrap=True)
    for name in (
        "parameters B",
        "error",
        "active B",
        "bf16 GB",
        "mxfp4 GB",
        "KV B/token",
        "KV GB",
        "chips bf16 / fp8",
        "wafers bf16 / fp8 / mxfp4",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for each in models:
        held = each.model.outline
        table.add_row(
            each.model.name,
            each.model.model_type,
            ", ".join(each.computed) or "sizes only",
            f"{held.parameters / 1e9:,.2f}",
            f"{each.error:+.1%}",
            f"{held.active / 1e9:,.2f}",
            f"{each.weight_bytes('bf16') / 1e9:,.1f}",
            f"{each.weight_bytes('mxfp4') / 1e9:,.1f}",
            f"{each.cache_bytes_a_token:,.0f}",
            f"{each.cache_bytes / 1e9:,.2f}",
            " / ".join(f"{each.chips(kind)}" for kind in ("bf16", "fp8")),
            " / ".join(f"{each.wafers(kind)}" for kind in ("bf16", "fp8", "mxfp4")),
        )
    console.print(table)
    console.print(LEGEND, highlight=False)


def line(each: Sizes) -> list[Any]:
    """A row of `models.csv`, in the order of `HEADING`."""
    held = each.model.outline
    return [
        each.model.name,
        each.model.model_type,
        held.parameters,
        each.model.published_parameters,
        each.error,
        held.active,
        *(each.weight_bytes(precision) for precision in BYTES_OF_A_WEIGHT),
        each.cache_bytes_a_token,
        each.context,
        each.cache_bytes,
        *(each.chips(precision) for precision in BYTES_OF_A_WEIGHT),
        *(each.wafers(precision) for precision in BYTES_OF_A_WEIGHT),
        " ".join(each.computed),
        each.model.source,
    ]


__all__ = ["HEADING", "line", "show"]
