"""Mixtures of experts in decode on the wafer, as the MLP of a decode layer.

Every PE of a layer's region holds a slice of every expert, as it does of a dense MLP. A token's
chosen experts are read by address: no PE waits for another's tokens, no activation walks to an
expert, and how long a token takes does not depend on where it goes. `ExpertMlp` says why.
"""

from kernels.moe.wafer.least import least_region
from kernels.moe.wafer.mlp import ExpertMlp
from kernels.moe.wafer.program import expert_arguments, expert_program

__all__ = ["ExpertMlp", "expert_arguments", "expert_program", "least_region"]
