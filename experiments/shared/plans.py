"""Plans of precision as users write them after `--dtype`."""

from experiments.shared.errors import UsageError
from models.errors import ModelError
from models.machines.decode import held_of
from models.precision import Precision, precision


def plan_of(words: str) -> Precision:
    """What the words after `--dtype` name, of which decode must have kernels.

    Raises:
      UsageError: no such plan.
    """
    try:
        plan = precision(words)
        held_of(plan)
    except ModelError as error:
        raise UsageError(f"--dtype is {words!r}: {error}") from None
    return plan


__all__ = ["plan_of"]
