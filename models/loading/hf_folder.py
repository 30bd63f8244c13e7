"""Reads a Hugging Face folder: config.json, safetensors weights, tokenizer.json."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.config import ModelConfig
from models.errors import ModelError
from models.family import OUTPUT_HEAD
from models.loading.hf_config import from_hf
from models.loading.tokenizer import TextTokenizer, read_tokenizer_file
from models.plain.weights import Weights, check_finite, check_weights

DTYPES = ("F32", "F16", "BF16")
LARGEST_JSON_BYTES = 1 << 28  # tokenizer files reach tens of MB


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
    tokenizer = read_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    return config, read_weights(folder, config), tokenizer


def read_json(path: pathlib.Path) -> Any:
    """The parsed contents of a JSON file; ModelError where it is missing or malformed."""
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise ModelError(
                f"{path}: {path.stat().st_size} bytes is too long for a JSON file"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}); fetch it again") from None


def shard_of_tensor(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Which file holds each tensor, from the index or the single file."""
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if single.exists():
        with open_shard(single) as shard:
            return dict.fromkeys(shard.keys(), single)
    if not index.exists():
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
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise ModelError(f"{index}: shards must be plain file names, got {name!r}")
    return {tensor: folder / name for tensor, name in shards.items()}


def open_shard(path: pathlib.Path) -> Any:
    """An open safetensors file; ModelError where it is missing, truncated or corrupt."""
    try:
        return safetensors.safe_open(path, framework="np")
    except FileNotFoundError:
        raise ModelError(f"{path}: not found; the index names it, fetch it") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a whole safetensors file of {path.stat().st_size} bytes ({error}); "
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
    tied = config.tie_word_embeddings
    names = config.family.names_in("hugging_face", config.num_hidden_layers, tied)
    lacking = sorted(set(names.values()) - places.keys())
    # A tied head and old RoPE buffers are copies of what is already known.
    unknown = sorted(
        name
        for name in places.keys() - set(names.values())
        if not name.endswith("rotary_emb.inv_freq")
        and not (tied and name == OUTPUT_HEAD.hugging_face)
    )
    if lacking or unknown:
        raise ModelError(
            f"{folder}: lacks tensors {lacking[:3]} and has unsupported tensors {unknown[:3]}; "
            "config.json and weights must belong together"
        )
    shards = {path: open_shard(path) for path in set(places.values())}
    stored = {
        ours: read_tensor(shards[places[hf]], hf, places[hf])
        for ours, hf in names.items()
    }
    weights = stack_layers(stored, config, folder)
    check_weights(config, weights)
    return weights


def read_tensor(shard: Any, name: str, path: pathlib.Path) -> NDArray[np.float32]:
    """One tensor in float32, as stored: `[outputs, inputs]`."""
    try:
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


def stack_layers(
    stored: dict[str, NDArray[np.float32]], config: ModelConfig, folder: pathlib.Path
) -> Weights:
    """The canonical pytree from the stored tensors."""
    weights: Weights = {}
    for tensor in config.family.outer(config.tie_word_embeddings):
        values = stored[tensor.name]
        ours = values.T if tensor.transposed else values
        weights[tensor.name] = np.ascontiguousarray(ours)
    weights["layers"] = {}
    for tensor in config.family.layer_tensors:
        each = [
            stored[f"layers.{layer}.{tensor.name}"]
            for layer in range(config.num_hidden_layers)
        ]
        if len({values.shape for values in each}) > 1:
            raise ModelError(
                f"{folder}: {tensor.name} must have one shape in every layer; not supported"
            )
        ours = [values.T if tensor.transposed else values for values in each]
        weights["layers"][tensor.name] = np.stack(ours)
    return weights


def read_tokenizer(folder: pathlib.Path) -> TextTokenizer:
    """The tokenizer with its end tokens and chat template, from the folder's JSON files."""
    tokenizer = read_tokenizer_file(folder / "tokenizer.json")
    settings: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings[name] = read_json(folder / name)
            if not isinstance(settings[name], dict):
                raise ModelError(
                    f"{folder / name}: must hold an object; fetch it again"
                )
    chosen = settings.get("tokenizer_config.json", {})
    eos: list[int] = []
    for name in ("config.json", "generation_config.json"):
        value = settings.get(name, {}).get("eos_token_id")
        if isinstance(value, list):
            eos += value
        elif value is not None:
            eos.append(value)
    eos += token_ids(tokenizer, chosen.get("eos_token"))
    # Llama's tokenizer.json adds the start token itself; ours is asked not to, so it is put first.
    added = tokenizer.encode("", add_special_tokens=True).ids
    template = chosen.get("chat_template", "")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(
            encoding="utf-8", errors="replace"
        )
    text = template if isinstance(template, str) else json.dumps(template)
    return TextTokenizer(tokenizer, eos_ids=eos, bos_ids=added, chat_template=text)


def token_ids(tokenizer: Tokenizer, token: Any) -> list[int]:
    """The id of a token that tokenizer_config.json names, as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return [] if found is None else [found]
