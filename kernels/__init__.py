"""Kernels on the emulated machines: what a researcher imports; a longer path is nobody's API.

```python
import kernels
from emu.trainium import TRN2

attention = kernels.ContextAttention(
    mask=kernels.masks.window(4096),
    tokens=2**17,
    ranks=16,
    heads=8,
    kv_heads=1,
    head_dim=128,
)
print(attention.placed, attention.read(TRN2.at()).seconds)
```
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.tokens.placement import PLACEMENTS, Placement, place
from kernels.trainium.catalogue import TRAINIUM_KERNELS
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent_attention import LatentAttention
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import TokenClock
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

__all__ = [
    "ContextAttention",
    "FABRIC_PROGRAMS",
    "LatentAttention",
    "PLACEMENTS",
    "Placement",
    "TRAINIUM_KERNELS",
    "TokenClock",
    "Variant",
    "WaferPlan",
    "attention",
    "masks",
    "place",
    "plan_wafer",
]
