"""RoPE's scaling out of a GGUF file's metadata and tensors, as llama.cpp reads them.

`src/llama-model.cpp`, load_hparams: the type is `linear` unless the file says otherwise, the factor
is `rope.scaling.factor` or the old `rope.scale_linear`, and 0 or no factor is 1. Frequencies are
divided by `rope_freqs.weight` where there is one (`ggml_rope_ext`): files of Llama 3.1 hold its
scaling so.
"""

from typing import Any

from models.errors import ModelError, shown
from models.loading.gguf_file import GgufFile
from models.loading.gguf_keys import field
from models.plain.rope import yarn_scale

DIVISORS = "rope_freqs.weight"
SHORT_DIVISORS, LONG_DIVISORS = "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = frozenset({DIVISORS, SHORT_DIVISORS, LONG_DIVISORS})
SCALING_TYPES = ("none", "linear", "yarn", "longrope")


def rope_scaling(
    file: GgufFile, architecture: str, context: int
) -> dict[str, Any] | None:
    """`ModelConfig.rope_scaling` of a file.

    Args:
        file: The header.
        architecture: The prefix of its keys.
        context: The longest context, from which YaRN and LongRoPE take the original one where the
            file does not say.

    Raises:
        ModelError: The file contradicts itself, or combines scalings.
    """
    prefix = f"{architecture}.rope.scaling"
    # Converters of Phi-3 write LongRoPE's tensors and no type; llama.cpp goes by the tensors.
    unstated = "longrope" if LONG_DIVISORS in file.tensors else "linear"
    kind = field(file, f"{prefix}.type", str, unstated)
    if kind not in SCALING_TYPES:
        raise ModelError(
            f"{file.path}: {prefix}.type={shown(kind)} is not supported; "
            f"supported are {SCALING_TYPES}"
        )
    factor = scaling_factor(file, architecture)
    attention = field(file, f"{prefix}.attn_factor", float, 1.0)
    check_tensors(file, kind)
    original = field(file, f"{prefix}.original_context_length", int, context)
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": field(file, f"{prefix}.yarn_beta_fast", float, 32.0),
            "beta_slow": field(file, f"{prefix}.yarn_beta_slow", float, 1.0),
            # The key scales YaRN's own factor; in a config.json `attention_factor` takes its place.
            "attention_factor": yarn_scale(factor) * attention,
        }
    if kind == "longrope":
        check_one(file, f"{prefix}.factor", factor, kind)
        return {
            "rope_type": "longrope",
            "short_factor": divisors(file, SHORT_DIVISORS),
            "long_factor": divisors(file, LONG_DIVISORS),
            "original_max_position_embeddings": original,
            "attention_factor": attention,
        }
    check_one(file, f"{prefix}.attn_factor", attention, kind)
    if kind == "none":
        factor = 1.0
    if DIVISORS in file.tensors:
        # llama.cpp divides by both, so a file that has both means their product.
        by_pair = [divisor * factor for divisor in divisors(file, DIVISORS)]
        return {"rope_type": "divisors", "divisors": by_pair}
    return None if factor == 1 else {"rope_type": "linear", "factor": factor}


def scaling_factor(file: GgufFile, architecture: str) -> float:
    """By how much positions are divided, under its new name or its old one."""
    keys = (f"{architecture}.rope.scaling.factor", f"{architecture}.rope.scale_linear")
    stated = {key: field(file, key, float) for key in keys if key in file.metadata}
    if len(set(stated.values())) > 1:
        both = " and ".join(f"{key}={value}" for key, value in stated.items())
        raise ModelError(f"{file.path}: {both} must agree; remove one of them")
    factor = next(iter(stated.values()), 1.0)
    return 1.0 if factor == 0 else factor


def check_one(file: GgufFile, key: str, value: float, kind: str) -> None:
    """Raises ModelError where a factor is stated that this kind of scaling does not use."""
    if value != 1:
        raise ModelError(
            f"{file.path}: {key}={value} is not supported with RoPE scaling {kind!r}; "
            "supported is 1"
        )


def check_tensors(file: GgufFile, kind: str) -> None:
    """Raises ModelError unless the file has just the RoPE tensors that its scaling uses."""
    allowed = {
        "none": {DIVISORS},
        "linear": {DIVISORS},
        "yarn": set(),
        "longrope": {SHORT_DIVISORS, LONG_DIVISORS},
    }[kind]
    found = file.tensors.keys() & ROPE_TENSORS
    # LongRoPE is nothing but its two tensors; Llama 3.1's divisors a file may have or not.
    needed = allowed if kind == "longrope" else set()
    if found - allowed or needed - found:
        raise ModelError(
            f"{file.path}: RoPE scaling {kind!r} must go with tensors {sorted(allowed)}, "
            f"got {sorted(found)}; the file is not supported"
        )


def divisors(file: GgufFile, name: str) -> list[float]:
    """What the frequency of each pair is divided by."""
    return [float(value) for value in file.read(name).ravel()]
