"""What sets one family of models apart from another: what such a fact is; `families.py` has them.

A `Family` says what files call a model's weights, which values of a config it can have, and which
of the few forms its layers take (`layer_form.py`). The oracle, the loaders, prefill and decode ask
the form; none of them compares a family's name. So a family that computes nothing new is one more
entry of `FAMILIES`, and one that does needs its arithmetic besides, in the oracle and in the
kernels of both machines.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from models.layer_form import Activation, QueryKeyNorm
from models.tensors import FileFormat, Tensor


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where files of a format hold a weight, if not as its `Tensor` says.

    Attributes:
        name: The file's tensor, behind the layer's prefix.
        transposed: Whether it holds the last two axes in reverse.
        parts: Our names of all weights in it, in the order of their outputs; none: this one alone.
        is_woven: Whether the outputs of two parts take turns, one of each, and not one part after
            the other.
    """

    name: str
    transposed: bool = True
    parts: tuple[str, ...] = ()
    is_woven: bool = False


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """The facts of one family of decoders.

    Attributes:
        model_type: What Hugging Face's `config.json` calls it.
        architecture: The one class of Hugging Face's that computes it.
        gguf_architecture: `general.architecture` of its GGUF files; None where they pass for
            another family's, or are not read.
        source: Where these facts can be read.
        activation: Of the MLP and the experts.
        hidden_act: What a config must call it.
        query_key_norm: How every model of it normalises queries and keys; None: not, or as its
            config says.
        has_biases: Whether queries, keys and values of every model have biases.
        has_sinks: Whether each head has a learned score without a value.
        has_output_norms: Whether outputs of attention and MLP are normalised too.
        norms_from_zero: Whether files hold a norm's weights less 1.
        scales_embedding: Whether the residual stream begins with the embedding times
            `sqrt(hidden_size)`.
        default_theta: RoPE's base where a config states none.
        rope_by_layer_kind: Whether configs of transformers 5 state RoPE for each kind of layer.
        interleaves_rope: File formats that hold the two rows of a RoPE pair side by side:
            rows `0, 4, 1, 5, 2, 6, 3, 7` of a head of 8, whose pairs are `(0, 4)`, `(1, 5)`, ….
            Others hold them as `0, 1, 2, …`.
        stored: Weights that Hugging Face's files hold otherwise than their `Tensor` says, by our
            name.
        stored_in_gguf: Likewise of GGUF files.
        unread: Beginnings of names of tensors in Hugging Face's files that the model's own forward
            pass does not use.
        layer_kinds: What an entry of `layer_types` may say.
        accepted_values: Config fields that change the result, with the values we compute; a file
            with another value is refused by name.
        assumed_values: What transformers takes for a field that the file leaves out.
        states_head_dim: Whether a config must state `head_dim`. Otherwise it may leave it out for
            `hidden_size / num_attention_heads`.
        sizes: Fields of `ModelConfig` that most families have not, from a config's contents.
    """

    model_type: str
    architecture: str
    gguf_architecture: str | None
    source: str
    activation: Activation = "silu"
    hidden_act: str = "silu"
    query_key_norm: QueryKeyNorm | None = None
    has_biases: bool = False
    has_sinks: bool = False
    has_output_norms: bool = False
    norms_from_zero: bool = False
    scales_embedding: bool = False
    default_theta: float = 10_000.0
    rope_by_layer_kind: bool = False
    interleaves_rope: frozenset[FileFormat] = frozenset()
    stored: Mapping[str, Stored] = dataclasses.field(default_factory=dict)
    stored_in_gguf: Mapping[str, Stored] = dataclasses.field(default_factory=dict)
    unread: tuple[str, ...] = ()
    layer_kinds: frozenset[str] = frozenset({"full_attention"})
    accepted_values: Mapping[str, tuple[Any, ...]]
    assumed_values: Mapping[str, Any]
    states_head_dim: bool = False
    sizes: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda values: {}

    def held(self, tensor: Tensor, file_format: FileFormat) -> Stored:
        """Where its files of a format hold a weight, without a layer's prefix."""
        usual = Stored(tensor.name_in(file_format), tensor.transposed)
        stored = self.stored_in_gguf if file_format == "gguf" else self.stored
        return stored.get(tensor.name, usual)


__all__ = ["Family", "Stored"]
