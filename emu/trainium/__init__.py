"""The NeuronCore: what a kernel is written in, and the machines it is timed on.

A kernel is a function of arrays in HBM. It declares tiles, moves data into them, computes with the
engines' instructions, all in `isa`, and sends between cores and chips:

```python
import jax, jax.numpy as jnp
from emu import Program
from emu.trainium import TRN2, dma_load, dma_store, isa, psum, sbuf

def gram(x):  # x[128, 128]: xᵀ x
    tile = dma_load(sbuf(128, 128, dtype=x.dtype), x)
    sums = isa.nc_matmul(psum(128, 128), tile, tile, 0)
    return dma_store(isa.tensor_copy(sbuf(128, 128), sums))

x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
print(Program(gram, {"core": 1}, ((),)).read(TRN2.at(), x))
```
"""

from emu.trainium import isa
from emu.trainium.datasheets import (
    GENERATIONS,
    SYSTEMS,
    TRN1,
    TRN1_32XLARGE,
    TRN1N_32XLARGE,
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN1,
    TRN3_GEN2,
    NeuronCoreSheet,
    System,
    on_system,
    with_cores,
)
from emu.trainium.engines.dma_compute import (
    dma_accumulate,
    dma_copy,
    dma_sum2,
    dma_sum3,
    dma_transpose,
)
from emu.trainium.engines.dma_rows import (
    dma_gather_rows,
    dma_scatter_add,
    dma_scatter_rows,
)
from emu.trainium.engines.memory import (
    array,
    dma_gather,
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    psum,
    sbuf,
)
from emu.trainium.links.chip_collectives import (
    chip_all_gather,
    chip_all_reduce,
    chip_all_to_all,
    chip_broadcast,
    chip_reduce_scatter,
)
from emu.trainium.links.collectives import all_gather, all_reduce, reduce_scatter
from emu.trainium.links.hierarchy import (
    all_gather_both,
    all_reduce_both,
    reduce_scatter_both,
)
from emu.trainium.links.neuronlink import send, send_next
from emu.trainium.links.pair import core_barrier, sendrecv
from emu.trainium.links.row_exchange import all_to_all_rows, chip_all_to_all_rows

__all__ = [
    "GENERATIONS",
    "NeuronCoreSheet",
    "SYSTEMS",
    "System",
    "TRN1",
    "TRN1N_32XLARGE",
    "TRN1_32XLARGE",
    "TRN2",
    "TRN2_48XLARGE",
    "TRN2_ULTRASERVER",
    "TRN3",
    "TRN3_GEN1",
    "TRN3_GEN2",
    "all_gather",
    "all_gather_both",
    "all_reduce",
    "all_reduce_both",
    "all_to_all_rows",
    "array",
    "chip_all_gather",
    "chip_all_reduce",
    "chip_all_to_all",
    "chip_all_to_all_rows",
    "chip_broadcast",
    "chip_reduce_scatter",
    "core_barrier",
    "dma_accumulate",
    "dma_copy",
    "dma_gather",
    "dma_gather_rows",
    "dma_load",
    "dma_load_tiles",
    "dma_scatter_add",
    "dma_scatter_rows",
    "dma_store",
    "dma_sum2",
    "dma_sum3",
    "dma_transpose",
    "hbm",
    "isa",
    "on_system",
    "psum",
    "reduce_scatter",
    "reduce_scatter_both",
    "sbuf",
    "send",
    "send_next",
    "sendrecv",
    "with_cores",
]
