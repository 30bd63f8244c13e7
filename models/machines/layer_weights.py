"""What the kernels of each machine compute of a model; all else is refused by name.

A kernel takes the weights it knows by name. One that its layer's form does not have, a stray bias
say, would be left out without a word, and every number after it would be wrong. So would a form of
arithmetic that needs no weights of its own, such as another activation.
"""

import math
from collections.abc import Iterable, Iterator

from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import LayerForm

COMPUTED: dict[str, frozenset[str]] = {
    "prefill": frozenset(
        {
            "a soft-cap of logits",
            "a scaled embedding",
            "RoPE that differs between layers",
            "experts",
            "shared experts of another width than the others",
            "the activation 'gelu_tanh'",
            "the activation 'clamped_swiglu'",
            "norms of outputs",
            "attention to latents",
            "query and key norms of kind 'unit'",
            "query and key norms of kind 'width'",
            "RoPE of a part of each head",
            "layers without RoPE",
            "a temperature of queries",
            "biases of queries, keys and values",
            "a bias of attention's output",
        }
    ),
    "decode": frozenset(
        {
            "a soft-cap of logits",
            "a scaled embedding",
            "RoPE that differs between layers",
            "experts",
            "heads of features that are no equal parts of at most 128",
            "latents of features that are no equal parts of at most 128",
            "keys of more than 128 features that turn or of more that do not",
            "norms of experts' outputs",
            "the activation 'gelu_tanh'",
            "the activation 'clamped_swiglu'",
            "norms of outputs",
            "attention to latents",
            "query and key norms of kind 'unit'",
            "query and key norms of kind 'width'",
            "RoPE of a part of each head",
            "layers without RoPE",
            "a temperature of queries",
            "biases of queries, keys and values",
            "a bias of attention's output",
        }
    ),
}
"""Of what a model may have beside the plainest layers, as `further` tells it, that which each
machine computes. Windows, chunks, soft-caps and sinks are variants, see
`models.family_attention`."""


def check_layer_weights(
    names: Iterable[str], config: ModelConfig, machine: str
) -> None:
    """Raises ModelError where a layer has weights that the kernels would leave out.

    Args:
        names: What the layers' weights are called here.
        config: Of the model, whose forms the kernels compute.
        machine: What the error calls the kernels' machine.
    """
    known = {tensor.name for tensor in config.layer_tensors}
    left_out = sorted(set(names) - known)
    if left_out:
        raise ModelError(
            f"{machine}: layers of {config.name} must have weights of {sorted(known)} only, got "
            f"{left_out}; correct the config, or leave them out"
        )


def check_forms(config: ModelConfig, machine: str) -> None:
    """Raises ModelError where a model computes what the kernels would not.

    Args:
        config: Of the model.
        machine: The kernels' machine, a key of `COMPUTED`.
    """
    told = sorted(set(further(config)) - COMPUTED[machine])
    if told:
        raise ModelError(
            f"{machine}: {config.name} has {', '.join(told)}, which the kernels do not compute; "
            "run the model on the oracle"
        )


def further(config: ModelConfig) -> Iterator[str]:
    """What a model has beside the plainest layers, embedding and output head, in words."""
    if config.logit_soft_cap is not None:
        yield "a soft-cap of logits"
    if config.embedding_scale != 1:
        yield "a scaled embedding"
    latent = config.latent
    if not _in_parts(config.head_dim if latent is None else latent.value_dim):
        yield "heads of features that are no equal parts of at most 128"
    if latent is not None:
        if not all(_in_parts(rank) for rank in (latent.query_rank or 1, latent.rank)):
            yield "latents of features that are no equal parts of at most 128"
        if max(latent.plain, latent.turned) > 128:
            yield "keys of more than 128 features that turn or of more that do not"
    rotations = {form.attention.rotation for form in config.forms}
    if len(rotations) > 1:
        yield "RoPE that differs between layers"
    for form in dict.fromkeys(config.forms):
        yield from _of_layer(form, config)


def _in_parts(features: int) -> bool:
    """Whether the mesh contracts them, 128 at once: 256 are two equal parts, 193 are none."""
    return features % math.ceil(features / 128) == 0


def _of_layer(form: LayerForm, config: ModelConfig) -> Iterator[str]:
    attention = form.attention
    rotation = attention.rotation
    experts = form.experts
    has = {
        "experts": experts is not None,
        "shared experts of another width than the others": experts is not None
        and experts.shared_width % experts.width != 0,
        "norms of experts' outputs": experts is not None and form.has_output_norms,
        f"the activation {form.activation!r}": form.activation != "silu",
        "norms of outputs": form.has_output_norms,
        "attention to latents": attention.latent is not None,
        f"query and key norms of kind {attention.qk_norm!r}": attention.qk_norm
        not in (None, "head"),
        "RoPE of a part of each head": rotation is not None
        and rotation.width != config.head_dim,
        "layers without RoPE": rotation is None,
        "a temperature of queries": attention.temperature is not None,
        "biases of queries, keys and values": attention.is_biased,
        "a bias of attention's output": attention.output_is_biased,
    }
    yield from (told for told, is_so in has.items() if is_so)


__all__ = ["COMPUTED", "check_forms", "check_layer_weights", "further"]
