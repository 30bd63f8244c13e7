"""Stores what transformers computes from the grid of tiny checkpoints: logits, ids and texts.

Run `python -m tests.models.loading.make_grid` where `torch` and `transformers` are installed; it
rewrites `tests/models/data/grid.safetensors` and `grid.json`. It imports nothing of this project
but the grid.
"""

import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import safetensors.numpy

from tests.models.loading.checkpoints import (
    DECODED,
    EACH,
    GRID,
    INPUT_IDS,
    POSITIONS,
    TEXT,
    TOKENIZERS,
    Checkpoint,
    write_folder,
)

DATA = pathlib.Path(__file__).parents[1] / "data"


def logits_of(folder: pathlib.Path) -> np.ndarray:
    """Some of the logits of the grid's input, float32 `[positions, ids]`."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor([INPUT_IDS]), use_cache=False).logits[0]
    return np.ascontiguousarray(logits.numpy()[list(POSITIONS), ::EACH])


def tokens_of(folder: pathlib.Path, case: Checkpoint) -> dict[str, Any]:
    """What its tokenizer makes of a text, of ids, and of a message."""
    import transformers  # pyright: ignore[reportMissingImports]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    values = {
        "encoded": tokenizer(TEXT)["input_ids"],
        "decoded": tokenizer.decode(DECODED, skip_special_tokens=True),
    }
    chat, _ = TOKENIZERS[case.tokenizer]
    if chat is None:
        return values
    message = [{"role": "user", "content": "hello"}]

    def rendered(**switch: Any) -> str:
        return tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=False, **switch
        )

    values["rendered"] = rendered()
    values["chat"] = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_dict=False
    )
    if chat == "thinking":
        values["silent"] = rendered(enable_thinking=False)
    return values


def compute() -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """The logits of each checkpoint, and what each kind of tokenizer gives."""
    logits, tokens = {}, {}
    for name, case in GRID.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_folder(case, pathlib.Path(folder))
            logits[name] = logits_of(path)
            if case.tokenizer not in tokens:
                tokens[case.tokenizer] = tokens_of(path, case)
    return logits, tokens


if __name__ == "__main__":
    all_logits, all_tokens = compute()
    safetensors.numpy.save_file(all_logits, DATA / "grid.safetensors")
    (DATA / "grid.json").write_text(json.dumps(all_tokens, indent=1) + "\n")
    print(
        f"wrote {len(all_logits)} checkpoints and {len(all_tokens)} tokenizers to {DATA}"
    )
