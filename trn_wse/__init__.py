"""The names a newcomer needs, in one place: programs, machines, instructions, attention over chips.

```python
import jax, jax.numpy as jnp
import trn_wse as tw

def gram(x):  # x[128, 128]: xᵀ x
    tile = tw.dma_load(tw.sbuf(128, 128, dtype=x.dtype), x)
    sums = tw.isa.nc_matmul(tw.psum(128, 128), tile, tile, 0)
    return tw.dma_store(tw.isa.tensor_copy(tw.sbuf(128, 128), sums))

x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
print(tw.Program(gram, {"core": 1}, ((),)).read(tw.TRN2.at(), x))
```
"""

import importlib.metadata

from emu import EmulationError, Known, Program, Reading, instruction
from emu.report.bands import drawn
from emu.trainium import (
    TRN1,
    TRN2,
    TRN3,
    dma_load,
    dma_store,
    isa,
    on_system,
    psum,
    sbuf,
)
from emu.wse import WSE2, WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.program import FabricProgram
from kernels import masks
from kernels.trainium.context.attention import ContextAttention

__version__ = importlib.metadata.version("trn-wse")

__all__ = [
    "ContextAttention",
    "EmulationError",
    "FabricProgram",
    "Known",
    "Program",
    "Reading",
    "TRN1",
    "TRN2",
    "TRN3",
    "WSE2",
    "WSE3",
    "dma_load",
    "dma_store",
    "drawn",
    "instruction",
    "isa",
    "masks",
    "on_system",
    "psum",
    "sbuf",
    "stepper",
]
