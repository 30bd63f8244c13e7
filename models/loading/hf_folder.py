"""Reads a Hugging Face folder: config.json, safetensors weights, tokenizer.json."""

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError, shown
from models.loading.hf_config import from_hf
from models.loading.hf_quantised import Quantisation, quantisation_of
from models.loading.hf_tokenizer import read_tokenizer
from models.loading.safetensors_file import FLOATS, Shard
from models.loading.stored_weights import (
    has_tensors_by_expert,
    names_of,
    weights_of,
)
from models.loading.tokenizer import TextTokenizer
from models.loading.untrusted import present, read_json
from models.plain.weights import Weights, check_finite, check_weights
from models.tensors import EMBEDDING, OUTPUT_HEAD


def load_hf_folder(
    folder: pathlib.Path,
) -> tuple[ModelConfig, Weights, TextTokenizer | None]:
    """Reads a model as Hugging Face stores it.

    Args:
        folder: Holds `config.json`, `model.safetensors` (or shards and their index), and
            `tokenizer.json`; untrusted. Nothing is unpickled or run.

    Returns:
        The config, float32 NumPy weights (the canonical pytree), and the tokenizer, which is None
        where the folder has none.

    Raises:
        ModelError: A file is missing or corrupt, or asks for what the transformer does not do.
    """
    values = read_json(folder / "config.json")
    config = from_hf(values, folder.name, str(folder.name))
    quantisation = quantisation_of(values, folder.name)
    tokenizer = None
    if present(folder / "tokenizer.json"):
        tokenizer = read_tokenizer(folder)
    return config, read_weights(folder, config, quantisation), tokenizer


def shard_of_tensor(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Which file holds each tensor, from the index or the single file."""
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if present(single):
        return dict.fromkeys(Shard(single).names(), single)
    if not present(index):
        pickled = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")
        )
        raise ModelError(
            f"{folder}: must hold model.safetensors or its index, found {pickled or 'no weights'}; "
            "pickled weights can run code and are never opened, convert them to safetensors"
        )
    shards = read_json(index)
    shards = shards.get("weight_map") if isinstance(shards, dict) else None
    if not isinstance(shards, dict):
        raise ModelError(f"{index}: must hold a weight_map object; fetch it again")
    for name in shards.values():
        # A name that climbs out of the folder would read somebody else's file.
        plain = isinstance(name, str) and pathlib.PurePath(name).name == name
        if not plain or name in ("", ".."):
            raise ModelError(
                f"{index}: shards must be plain file names, got {shown(name)}"
            )
    return {tensor: folder / name for tensor, name in shards.items()}


def check_index(
    shards: dict[pathlib.Path, Shard], places: dict[str, pathlib.Path]
) -> None:
    """Raises ModelError unless each shard holds just the tensors that the index places there.

    A tensor that two shards hold could otherwise be taken from either.
    """
    for path, shard in shards.items():
        held = shard.names()
        named = {tensor for tensor, place in places.items() if place == path}
        if held != named:
            raise ModelError(
                f"{path}: holds tensors {sorted(held - named)[:3]} that the index places elsewhere "
                f"and lacks {sorted(named - held)[:3]}; index and shards must belong together"
            )


def read_weights(
    folder: pathlib.Path, config: ModelConfig, quantisation: Quantisation | None = None
) -> Weights:
    """All tensors in float32, transposed to `y = x @ W`, and stacked by layer.

    Args:
        folder: Holds them.
        config: Says which there must be.
        quantisation: How those are stored that are quantised.

    Raises:
        ModelError: A tensor is missing, unknown, corrupt, or stored otherwise.
    """
    places = shard_of_tensor(folder)
    check_claim(folder, "layers", config.num_hidden_layers, len(places))
    if has_tensors_by_expert(config):
        check_claim(folder, "experts", config.length_of("experts"), len(places))
    # Every tensor is used or refused: a bias left out would change each number and raise nothing.
    expected = names_of(config, "hugging_face")
    quantised = quantised_among(expected, set(places), quantisation)
    names = expected - quantised.keys() | {
        part for parts in quantised.values() for part in parts
    }
    lacking = sorted(names - places.keys())
    unknown = sorted(
        name for name in places.keys() - names if not is_unread(name, config)
    )
    if lacking or unknown:
        raise ModelError(
            f"{folder}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "config.json and weights must belong together"
        )
    shards = {path: Shard(path) for path in sorted(set(places.values()))}
    check_index(shards, places)

    def stored(name: str, dtypes: tuple[str, ...] = FLOATS) -> NDArray[Any]:
        return shards[places[name]].read(name, dtypes)

    def read(name: str) -> NDArray[np.float32]:
        where = f"{folder}: tensor {name}"
        if quantisation is not None and name in quantised:
            # A corrupt scale is reported below, in one line.
            with np.errstate(all="ignore"):
                values = quantisation.values(stored, quantised[name], where)
        else:
            where = f"{places[name]}: tensor {name}"
            values = stored(name).astype(np.float32, copy=False)
        return check_finite(values, where)

    weights = weights_of(config, read, "hugging_face", str(folder))
    head = OUTPUT_HEAD.hugging_face
    if config.tie_word_embeddings and head in places:
        check_tied(weights[EMBEDDING.name], read(head), folder)
    check_weights(config, weights)
    return weights


def check_claim(folder: pathlib.Path, what: str, claimed: int, held: int) -> None:
    """Raises ModelError where a config claims more of something than there are tensors."""
    # Before names are listed: of a billion layers they alone would fill the memory.
    if claimed > held:
        raise ModelError(
            f"{folder}: config.json claims {claimed} {what}, but the weights hold {held} tensors; "
            "the files do not belong together"
        )


def quantised_among(
    names: set[str], held: set[str], quantisation: Quantisation | None
) -> dict[str, tuple[str, ...]]:
    """Which weights a folder holds quantised, with the tensors of each.

    A config lists modules that are left plain, by patterns; which tensors there are says the same.
    """
    if quantisation is None:
        return {}
    found = {}
    for name in names:
        parts = quantisation.parts(name)
        # What tells it from a plain one: its scales, or anything but its own name.
        if (set(parts) - {name}) & held:
            found[name] = parts
    return found


def is_unread(name: str, config: ModelConfig) -> bool:
    """Whether a file may hold a tensor that the model does not compute with.

    A tied head is a copy of the embedding, which is checked; old RoPE buffers are made anew, as in
    transformers.
    """
    if config.tie_word_embeddings and name == OUTPUT_HEAD.hugging_face:
        return True
    layers = config.num_hidden_layers
    begins = tuple(start.format(layers=layers) for start in config.family.unread)
    return name.endswith("rotary_emb.inv_freq") or name.startswith(begins)


def check_tied(
    embedding: NDArray[np.float32], head: NDArray[np.float32], folder: pathlib.Path
) -> None:
    """Raises ModelError where a stored head is another matrix than the embedding it is tied to."""
    # Which of the two the model was trained with cannot be told from here.
    if not np.array_equal(embedding, head):
        raise ModelError(
            f"{folder}: tie_word_embeddings is true, but {OUTPUT_HEAD.hugging_face} differs from "
            f"{EMBEDDING.hugging_face}; set it to false to use the stored head, or remove the head"
        )
