"""A model's latent attention as the kernels of both machines are told of it."""

import dataclasses

from kernels.latent_heads import LatentHeads
from models.layer_form import Latent


def latent_heads(latent: Latent | None) -> LatentHeads | None:
    """Features of its heads; None where keys and values are projected."""
    # A class of its own: importing kernels imports JAX, which configs do without.
    return None if latent is None else LatentHeads(**dataclasses.asdict(latent))


__all__ = ["latent_heads"]
