"""The names a newcomer needs, in one place: programs, machines, instructions, attention over chips.

```python
import trn_wse as tw

clock = tw.Program(kernel, {"core": 1}, ((),)).read(tw.TRN2.at(), x)
print(clock)
```
"""

import importlib.metadata

from emu import EmulationError, Known, Program, Reading, instruction
from emu.report.bands import drawn
from emu.trainium import isa
from emu.trainium.datasheets import TRN1, TRN2, TRN3, on_system
from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
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
