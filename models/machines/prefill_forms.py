"""A config's layers as prefill is told of them: runs, their forms, tables of positions."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kernels.trainium.layer.form import Positions, PrefillForm, QueryKeyNorm
from kernels.trainium.layer.gate import GATES
from models.config import ModelConfig
from models.layer_form import LayerForm, Temperature
from models.plain.rope import rope_tables

T = TypeVar("T", bound=Hashable)


class Choices(NamedTuple):
    """Which of its alternatives each layer of a run has, int32 `[layers]`; None: there is one.

    Attributes:
      form: of `LayerRun.forms`.
      ring: of `LayerRun.rings`.
      table: of the model's rotations.
    """

    form: Any
    ring: Any
    table: Any


@dataclasses.dataclass(frozen=True)
class LayerRun:
    """Layers one behind the other that have the same weights, as far as they go.

    Attributes:
      forms: of its layers, each once.
      rings: which of the model's rings its layers have, each once.
      table: of which of the model's rotations its tables are, where all its layers have the same.
    """

    forms: tuple[PrefillForm, ...]
    rings: tuple[int, ...]
    table: int = 0


def layer_runs(
    config: ModelConfig, kinds: Sequence[int]
) -> tuple[tuple[LayerRun, ...], tuple[Choices, ...]]:
    """A model's runs, and what each of their layers has.

    Gemma-3's layers are one run of one form; 5 of 6 have a window and RoPE of their own:

        ring   0 0 0 0 0 1
        table  0 0 0 0 0 1

    Args:
      config: of the model.
      kinds: which of the rings each layer has.
    """
    runs, choices = [], []
    for run in config.runs:
        own = [config.forms[layer] for layer in run]
        forms, form_of = _distinct([prefill_form(form) for form in own])
        rings, ring_of = _distinct([int(kinds[layer]) for layer in run])
        found = [form.attention.rotation for form in own]
        turning = [rotation for rotation in found if rotation is not None]
        # A layer without RoPE looks at no table: it may have that of any other.
        tables, table_of = _distinct(
            [
                config.rotations.index(rotation or turning[0]) if turning else 0
                for rotation in found
            ]
        )
        if table_of is not None:
            table_of = np.asarray(tables, np.int32)[table_of]
        runs.append(LayerRun(forms, rings, tables[0]))
        choices.append(Choices(form_of, ring_of, table_of))
    return tuple(runs), tuple(choices)


def _distinct(values: Sequence[T]) -> tuple[tuple[T, ...], np.ndarray | None]:
    """Each value once, and which of them stands where; None where there is only one."""
    each = tuple(dict.fromkeys(values))
    if len(each) == 1:
        return each, None
    return each, np.asarray([each.index(value) for value in values], np.int32)


def prefill_form(form: LayerForm) -> PrefillForm:
    """What the kernels compute of a layer's form; `check_forms` has refused what they do not."""
    attention = form.attention
    norms: dict[str | None, QueryKeyNorm | None] = {
        None: None,
        "head": "head",
        "width": "width",
        "unit": "unit",
    }
    return PrefillForm(
        turns=attention.rotation is not None,
        qk_norm=norms[attention.qk_norm],
        has_temperature=attention.temperature is not None,
        gate=GATES[form.activation],
    )


# --- tables of positions ---


def position_tables(
    config: ModelConfig, positions: np.ndarray, tokens: int, shape: tuple[int, ...]
) -> Positions:
    """Tables of every chip's tokens, float32, of its rotations stacked.

    Args:
      config: of the model.
      positions: int `[chips, slots]`.
      tokens: of the prompt.
      shape: of a chip's tokens, `(blocks, tiles, rows)`.

    Returns:
      `cos` and `sin` `[chips, rotations, blocks, tiles, rows, pairs]`, and `temperature`
      `[chips, blocks, tiles, rows, 1]`.
    """
    chips = len(positions)
    flat = positions.ravel()
    temperature: Any = None
    if config.temperature is not None:
        factors = temperatures(config.temperature, flat)
        temperature = factors.reshape(chips, *shape, 1)
    if not config.rotations:
        return Positions(None, None, temperature)
    # Whatever the position, the angles are those of the whole prompt: some scalings turn a token of
    # a long sequence otherwise than the same token of a short one.
    tables = [
        rope_tables(config, flat, tokens, rotation) for rotation in config.rotations
    ]

    def stacked(which: int) -> Any:
        by_chip = [table[which].reshape(chips, *shape, -1) for table in tables]
        return np.stack(by_chip, axis=1)

    return Positions(stacked(0), stacked(1), temperature)


def table_structs(config: ModelConfig, chips: int, shape: tuple[int, ...]) -> Positions:
    """Shapes and dtypes of `position_tables`."""

    def struct(*sizes: int) -> Any:
        return jax.ShapeDtypeStruct((chips, *sizes), jnp.float32)

    temperature = None if config.temperature is None else struct(*shape, 1)
    if not config.rotations:
        return Positions(None, None, temperature)
    turns = struct(len(config.rotations), *shape, config.rotated_width // 2)
    return Positions(turns, turns, temperature)


def temperatures(temperature: Temperature, positions: np.ndarray) -> np.ndarray:
    """What queries at these positions are multiplied by, float32."""
    steps = np.floor((positions + 1) / temperature.floor)
    return (temperature.slope * np.log1p(steps) + 1).astype(np.float32)


__all__ = [
    "Choices",
    "LayerRun",
    "layer_runs",
    "position_tables",
    "prefill_form",
    "table_structs",
    "temperatures",
]
