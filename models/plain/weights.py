"""The plain pytree of weights that the oracle and the emulated machines share."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError

Weights: TypeAlias = dict[str, Any]
"""`embed`, `norm`, `head` unless tied, and `layers`, a dictionary of arrays stacked by layer."""

Shapes: TypeAlias = dict[str, Any]
"""Nested as the weights, with a shape for each array."""


def weight_shapes(config: ModelConfig) -> Shapes:
    """The shape of every weight, nested as the weights are.

    A linear layer computes `y = x @ W`, so `W` is `[inputs, outputs]`. A weight of layers is
    stacked over those that have it, in their order: `layers.wq` of SmolLM2, 30 layers of 9 heads of
    64 on a width of 576, is `(30, 576, 576)`, and `layers.wk`, of 3 heads, `(30, 576, 192)`; of
    DeepSeek-V3 3 layers have `layers.w_gate`, and 58 `layers.expert_gate`.
    """
    shapes: Shapes = {
        tensor.name: config.shape_of(tensor) for tensor in config.outer_tensors
    }
    shapes["layers"] = {
        tensor.name: (len(config.layers_with[tensor.name]), *config.shape_of(tensor))
        for tensor in config.layer_tensors
    }
    return shapes


def weights_of_run(config: ModelConfig, weights: Weights, run: range) -> dict[str, Any]:
    """The weights of layers one behind the other (`config.runs`), stacked over these."""
    own = {}
    for name, stack in weights["layers"].items():
        layers = config.layers_with[name]
        if run.start in layers:
            first = layers.index(run.start)
            # All of a model whose layers are alike: no copy.
            whole = len(layers) == len(run)
            own[name] = stack if whole else stack[first : first + len(run)]
    return own


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """One flat dictionary, nested names joined by a dot, sorted."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            for inner, leaf in flatten(value).items():
                flat[f"{name}.{inner}"] = leaf
        else:
            flat[name] = value
    return dict(sorted(flat.items()))


def nest(flat: Mapping[str, Any]) -> Weights:
    """The inverse of `flatten` for the weights, which nest one level deep."""
    tree: Weights = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        if inner:
            tree.setdefault(outer, {})[inner] = value
        else:
            tree[outer] = value
    return tree


def check_weights(config: ModelConfig, weights: Mapping[str, Any]) -> None:
    """Raises ModelError unless `weights` has exactly the config's names and shapes, in float32."""
    expected = flatten(weight_shapes(config))
    given = flatten(weights)
    lacking = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    if lacking or unknown:
        raise ModelError(
            f"{config.name}: weights lack {lacking} and have unknown {unknown}; "
            "config and weights must agree"
        )
    for name, shape in expected.items():
        array = given[name]
        # A matrix of the wrong shape may still multiply, square ones above all, and another dtype
        # would lower the oracle's precision: neither would raise later.
        if tuple(array.shape) != shape or array.dtype != np.float32:
            raise ModelError(
                f"{config.name}: weight {name} must be float32 {list(shape)}, got "
                f"{array.dtype} {list(array.shape)}; config and weights must agree"
            )


def check_finite(values: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """`values`, or ModelError where one of them is infinite or not a number."""
    if not np.isfinite(values).all():
        raise ModelError(
            f"{where}: weights must be finite, got infinity or NaN; fetch it again"
        )
    return values


def random_weights(config: ModelConfig, seed: int) -> Weights:
    """Weights to train or test from: norms 1, biases 0, linears normal of variance 1 / inputs.

    Returns:
        float32 NumPy arrays; the same seed gives the same values.
    """
    generator = np.random.default_rng(seed)
    tensors = {tensor.name: tensor for tensor in config.outer_tensors}
    tensors |= {f"layers.{tensor.name}": tensor for tensor in config.layer_tensors}

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = tensors[name]
        if tensor.is_norm:
            return np.ones(shape, np.float32)
        if tensor.is_added:
            return np.zeros(shape, np.float32)
        # The embedding, `[vocab, hidden]`, is scaled for its use as the head: hidden inputs.
        inputs = shape[-1] if name == "embed" else shape[-2]
        return generator.standard_normal(shape, np.float32) * np.float32(inputs**-0.5)

    shapes = flatten(weight_shapes(config))
    return nest({name: draw(name, shape) for name, shape in shapes.items()})
