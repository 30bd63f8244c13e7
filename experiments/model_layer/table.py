"""A layer's stages as a table, and as rows of a file."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.model_layer.measure import Measured
from experiments.shared.units import count, duration
from models.machines.layer_time import LayerTime, StageTime

HEADING = (
    "model",
    "layer",
    "precision",
    "counts",
    "stage",
    *(f"{band}_seconds" for band in BANDS),
    "flops",
    "matmul_flops",
    "mx_flops",
    "peak_share",
    "hbm_bytes",
    "link_bytes",
    "bound",
    "bound_share",
)
LEGEND = """\
time: of the slowest core, low / nominal / high of the datasheet's numbers; a stage begins when the
one before it has ended, and the layer's time is their sum; FLOPs: of matrix products, padding of
tiles included, and bytes: of all cores; peak: of the Tensor Engines in bfloat16, and in MX for the
products that are; bound: the engine that is busy for the largest share of the stage"""


def show(layer: Measured, console: Console) -> None:
    """Prints one layer."""
    stages = layer.stages
    kind = f", tokens to experts: {layer.counts}" if layer.counts else ""
    table = Table(
        title=f"{stages.config.name}, layer {stages.layer} ({layer.layers} of "
        f"{stages.config.num_hidden_layers} are like it), {stages.precision.name}{kind}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("stage", no_wrap=True)
    for name in ("time", "FLOPs", "of peak", "HBM", "links"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    for stage in layer.time.stages:
        bound = f"{stage.bound} {stage.busy[stage.bound]:.0%}"
        table.add_row(stage.name, *_cells(layer, stage), bound)
    table.add_section()
    table.add_row("layer", *_cells(layer, layer.time), "")
    console.print(table)


def _cells(layer: Measured, stage: StageTime | LayerTime) -> Iterator[str]:
    yield " / ".join(duration(stage.seconds[band]) for band in BANDS)
    yield count(stage.matmul_flops)
    yield f"{layer.peak_share(stage):.1%}"
    yield count(stage.hbm_bytes, "B")
    yield count(stage.link_bytes, "B")


def lines(layer: Measured) -> Iterator[list[Any]]:
    """Rows of `model_layer.csv`, in the order of `HEADING`: of the stages, then of the layer."""
    stages = layer.stages
    for stage in (*layer.time.stages, layer.time):
        is_stage = isinstance(stage, StageTime)
        yield [
            stages.config.name,
            stages.layer,
            stages.precision.name,
            layer.counts,
            stage.name if is_stage else "layer",
            *(stage.seconds[band] for band in BANDS),
            stage.flops,
            stage.matmul_flops,
            stage.mx_flops,
            layer.peak_share(stage),
            stage.hbm_bytes,
            stage.link_bytes,
            stage.bound if is_stage else "",
            stage.busy[stage.bound] if is_stage else None,
        ]


__all__ = ["HEADING", "LEGEND", "lines", "show"]
