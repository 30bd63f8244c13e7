"""A layer's cycles over sizes of its grid: WaferLLM's as published, and ours."""

import dataclasses
from collections.abc import Iterator

from emu.datasheet import Device
from emu.wse import WSE2, WSE3
from experiments.calibration import wafer
from experiments.calibration.points import POINTS, read_points
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap
from models.configurations import published

ROWS = 256, 512, 1024
PARTS = 8, 16, 32, 64  # columns of a key/value head
CONTEXT = 4096


@dataclasses.dataclass(frozen=True)
class GridLayer:
    """One layer on one grid.

    Attributes:
      kernel: whose, and of which model.
      machine: the wafer.
      rows, cols: PEs.
      cycles: for one token, nominal.
      published_cycles: as measured; None: nobody has.
    """

    kernel: str
    machine: str
    rows: int
    cols: int
    cycles: int
    published_cycles: float | None = None


def published_layers() -> Iterator[GridLayer]:
    """WaferLLM's layers on the grids on which they were measured."""
    device = WSE2.at()
    for point in read_points(POINTS):
        if point.case != wafer.decode_layer.__name__:
            continue
        metrics = wafer.decode_layer(device, **point.params)
        side = point.params["grid"]
        yield GridLayer(
            f"WaferLLM, {point.params['model']}",
            WSE2.name,
            *(side, side),
            int(metrics["cycles"]),
            point.value,
        )


def own_layers() -> Iterator[GridLayer]:
    """Llama 3.1 8B's layer as this project decodes it, on grids that have room for it."""
    device = WSE3.at()
    for parts in PARTS:
        for rows in ROWS:
            layer = _map(rows, parts)
            if _fits(layer, device):
                reading = layer_program(layer).read(
                    device, *layer_arguments(layer, CONTEXT - 1, 0)
                )
                yield GridLayer(
                    "ours, Llama-3.1-8B",
                    WSE3.name,
                    *(layer.rows, layer.cols),
                    reading.end_ticks,
                )


def _map(rows: int, parts: int) -> LayerMap:
    config = published("llama-3.1-8b").config
    return LayerMap(
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        qk_norm=config.qk_norm,
        context=CONTEXT,
        rows=rows,
        parts=parts,
        dtype="bfloat16",
    )


def _fits(layer: LayerMap, device: Device) -> bool:
    resident = layer.weight_bytes() + layer.cache_bytes() + layer.least_buffer_bytes()
    return resident + device.code_bytes <= device.sram_bytes


__all__ = ["GridLayer", "own_layers", "published_layers"]
