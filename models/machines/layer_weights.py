"""The weights of a layer that the kernels of both machines compute with; others are refused.

A kernel takes the weights it knows by name. One that it does not know, a bias say, would be left
out without a word, and every number after it would be wrong.
"""

from collections.abc import Iterable

from models.errors import ModelError
from models.family import ATTENTION, GATED_MLP, QUERY_KEY_NORMS

COMPUTED = frozenset(
    tensor.name for tensor in (*ATTENTION, *QUERY_KEY_NORMS, *GATED_MLP)
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
