"""A model as a precision plan holds it: the numbers that the codes of weights and activations stand
for.

On these the plain model tells the error of a precision without any machine: all else is float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.formats.coding import as_held
from kernels.formats.formats import Format, of_activations
from models.config import ModelConfig
from models.held_bytes import held_as
from models.plain.weights import Weights
from models.precision import Precision


def held_weights(config: ModelConfig, weights: Weights, plan: Precision) -> Weights:
    """The weights with those of a layer's products as the plan holds them, float32.

    On these the plain model is the oracle of a run whose weights are in codes. What is in no codes
    is the same array: a run in bfloat16 is compared with float32.

    Args:
      config: of the model.
      weights: canonical pytree.
      plan: of the run.
    """
    if not (plan.weights.is_coded or plan.experts.is_coded):
        return weights
    layers: dict[str, Any] = dict(weights["layers"])
    for tensor in config.layer_tensors:
        held = held_as(tensor, plan)
        if held.is_coded:
            # Layer by layer: a matrix in float32 is held several times meanwhile.
            stack = layers[tensor.name]
            each = [as_held(np.asarray(layer), held) for layer in stack]
            layers[tensor.name] = np.stack(each)
    return {**weights, "layers": layers}


def taken_as(held: Format | None, x: jax.Array) -> jax.Array:
    """Activations as a product of a layer has them, float32.

    Args:
      held: what they are held in; None: as they are.
      x: `[batch, seq, features]`.
    """
    if held is None or not held.is_coded:
        return x
    by_feature = jnp.swapaxes(x, -1, -2)
    return jnp.swapaxes(as_held(by_feature, of_activations(held)), -1, -2)


__all__ = ["held_weights", "taken_as"]
