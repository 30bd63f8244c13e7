"""Reads a Hugging Face folder: config.json, safetensors weights, tokenizer.json."""

import pathlib
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError, shown
from models.loading.hf_config import from_hf
from models.loading.hf_tokenizer import read_tokenizer
from models.loading.stored_weights import names_of, weights_of
from models.loading.tokenizer import TextTokenizer
from models.loading.untrusted import check_regular, present, read_json
from models.plain.weights import Weights, check_finite, check_weights
from models.tensors import EMBEDDING, OUTPUT_HEAD

DTYPES = ("F32", "F16", "BF16")


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
    config = from_hf(read_json(folder / "config.json"), folder.name, str(folder.name))
    tokenizer = None
    if present(folder / "tokenizer.json"):
        tokenizer = read_tokenizer(folder)
    return config, read_weights(folder, config), tokenizer


def shard_of_tensor(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Which file holds each tensor, from the index or the single file."""
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if present(single):
        with open_shard(single) as shard:
            return dict.fromkeys(shard.keys(), single)
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
    shards: dict[pathlib.Path, Any], places: dict[str, pathlib.Path]
) -> None:
    """Raises ModelError unless each shard holds just the tensors that the index places there.

    A tensor that two shards hold could otherwise be taken from either.
    """
    for path, shard in shards.items():
        held = set(shard.keys())
        named = {tensor for tensor, place in places.items() if place == path}
        if held != named:
            raise ModelError(
                f"{path}: holds tensors {sorted(held - named)[:3]} that the index places elsewhere "
                f"and lacks {sorted(named - held)[:3]}; index and shards must belong together"
            )


def open_shard(path: pathlib.Path) -> Any:
    """An open safetensors file; ModelError where it is missing, truncated or corrupt."""
    size_bytes = check_regular(path)
    try:
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a whole safetensors file of {size_bytes} bytes ({error}); "
            "fetch it again"
        ) from None


def read_weights(folder: pathlib.Path, config: ModelConfig) -> Weights:
    """All tensors in float32, transposed to `y = x @ W`, and stacked by layer."""
    places = shard_of_tensor(folder)
    if config.num_hidden_layers > len(places):
        raise ModelError(
            f"{folder}: config.json claims {config.num_hidden_layers} layers, but the weights hold "
            f"{len(places)} tensors; the files do not belong together"
        )
    # Every tensor is used or refused: a bias left out would change each number and raise nothing.
    names = names_of(config, "hugging_face")
    lacking = sorted(names - places.keys())
    unknown = sorted(
        name for name in places.keys() - names if not is_unread(name, config)
    )
    if lacking or unknown:
        raise ModelError(
            f"{folder}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "config.json and weights must belong together"
        )
    shards = {path: open_shard(path) for path in sorted(set(places.values()))}
    check_index(shards, places)

    def read(name: str) -> NDArray[np.float32]:
        return read_tensor(shards[places[name]], name, places[name])

    weights = weights_of(config, read, "hugging_face", str(folder))
    head = OUTPUT_HEAD.hugging_face
    if config.tie_word_embeddings and head in places:
        check_tied(weights[EMBEDDING.name], read(head), folder)
    check_weights(config, weights)
    return weights


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


def read_tensor(shard: Any, name: str, path: pathlib.Path) -> NDArray[np.float32]:
    """One tensor in float32, as stored: `[outputs, inputs]`."""
    try:
        # Of the header: an 8-bit tensor is refused before NumPy meets a dtype that it has not.
        dtype = shard.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            raise ModelError(
                f"{path}: tensor {name} must be one of {DTYPES}, got {dtype}; "
                "quantised safetensors are not supported"
            )
        values = shard.get_tensor(name).astype(np.float32, copy=False)
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{path}: cannot read tensor {name} ({error}); fetch it again"
        ) from None
    return check_finite(values, f"{path}: tensor {name}")
