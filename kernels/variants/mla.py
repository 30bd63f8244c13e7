"""Multi-head latent attention (MLA): keys and values of all heads from one latent a token.

DeepSeek-AI, *DeepSeek-V2* (2024, arXiv 2405.04434), section 2.1, and DeepSeek-V3 (arXiv
2412.19437). Expanded, every head has keys and values of its own; absorbed, queries meet latents.
"""

from kernels.attention.latent import Form, LatentVariant
from kernels.attention.variant import Variant
from kernels.variants.causal import causal


def mla(form: Form = "expanded", variant: Variant | None = None) -> LatentVariant:
    """Attention to latents.

    Args:
      form: `expanded` or `absorbed`: the same numbers, in other work.
      variant: of the scores; None: causal.
    """
    return LatentVariant(f"mla {form}", variant or causal(), form)
