"""What the kernels of both machines compute of a model; all else is refused by name.

A kernel takes the weights it knows by name. One that it does not know, a bias say, would be left
out without a word, and every number after it would be wrong. So would a form of arithmetic that
needs no weights of its own, such as another activation.
"""

from collections.abc import Iterable

from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import LayerForm
from models.tensors import ATTENTION, GATED_MLP, QUERY_KEY_NORMS, SINKS

# Sinks are taken up by the variants that layers have, see `models.family_attention`.
COMPUTED = frozenset(
    tensor.name for tensor in (*ATTENTION, SINKS, *QUERY_KEY_NORMS, *GATED_MLP)
)


def check_layer_weights(names: Iterable[str], machine: str) -> None:
    """Raises ModelError where a layer has weights that the kernels would leave out.

    Args:
        names: What the layer's weights are called here.
        machine: What the error calls the kernels' machine.
    """
    left_out = sorted(set(names) - COMPUTED)
    if left_out:
        raise ModelError(
            f"{machine}: layers must have weights of {sorted(COMPUTED)} only, got {left_out}; "
            "add their arithmetic to the kernels, or run the model on the oracle"
        )


def check_forms(config: ModelConfig, machine: str) -> None:
    """Raises ModelError where a model computes what the kernels would not.

    Args:
        config: Of the model.
        machine: What the error calls the kernels' machine.
    """
    asked = [config.logit_soft_cap is not None and "a soft-cap of logits"]
    asked += [config.embedding_scale != 1 and "a scaled embedding"]
    rotations = {form.attention.rotation for form in config.forms}
    asked += [len(rotations) > 1 and "RoPE that differs between layers"]
    for form in dict.fromkeys(config.forms):
        asked += _not_computed(form, config)
    told = sorted({each for each in asked if isinstance(each, str)})
    if told:
        raise ModelError(
            f"{machine}: {config.name} has {', '.join(told)}, which the kernels do not compute; "
            "run the model on the oracle"
        )


def _not_computed(form: LayerForm, config: ModelConfig) -> list[str | bool]:
    """What a layer of that form has that no kernel computes; False for what it has not."""
    attention = form.attention
    rotation = attention.rotation
    turns_part = rotation is not None and rotation.width != config.head_dim
    return [
        form.experts is not None and "experts",
        form.activation != "silu" and f"the activation {form.activation!r}",
        form.has_output_norms and "norms of outputs",
        attention.latent is not None and "attention to latents",
        attention.qk_norm not in (None, "head")
        and f"query and key norms of kind {attention.qk_norm!r}",
        turns_part and "RoPE of a part of each head",
        rotation is None and "layers without RoPE",
        attention.temperature is not None and "a temperature of queries",
        attention.is_biased and "biases of queries, keys and values",
        attention.output_is_biased and "a bias of attention's output",
    ]


__all__ = ["COMPUTED", "check_forms", "check_layer_weights"]
