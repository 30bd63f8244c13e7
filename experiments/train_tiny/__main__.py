"""The command line of `experiments.train_tiny`."""

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
import tokenizers
from numpy.typing import NDArray
from optax.contrib import MuonDimensionNumbers, muon
from tokenizers import Tokenizer

from emu.early_end import written_whole
from experiments.shared import cli
from experiments.shared.output import Output, writable_folder
from experiments.train_tiny.corpus import gather
from models.catalogue import TINY
from models.plain.transformer import forward
from models.plain.weights import Weights, flatten, random_weights

DATA = pathlib.Path(__file__).parents[2] / "models" / "data"
EOS = "<eos>"
SHORT, LONG = 256, TINY.max_position_embeddings  # tokens in a training sequence
HELD_OUT = 20  # one document in this many is kept for the validation loss


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. Long sequences are dear, so only some steps see them."""

    steps: int = 1300
    tokens_per_step: int = 2048
    long_every: int = 10  # steps from one with long sequences to the next
    peak_learning_rate: float = 4e-2  # Muon's, for the layers' matrices
    adam_share: float = 0.3  # Adam's rate for everything else, as a share of Muon's
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 0


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """A byte-level BPE whose id 0 ends a document."""
    tokenizer = Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=TINY.vocab_size,
        special_tokens=[EOS],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> NDArray[np.int32]:
    """All documents' ids in one row, `<eos>` after each."""
    eos = tokenizer.token_to_id(EOS)
    rows = [encoding.ids + [eos] for encoding in tokenizer.encode_batch(documents)]
    return np.concatenate([np.asarray(row, np.int32) for row in rows])


def windows_of(
    stream: NDArray[np.int32], starts: NDArray[np.int64], length: int
) -> jax.Array:
    """Windows int32 `[len(starts), length + 1]` of the stream."""
    return jnp.asarray(stream[starts[:, None] + np.arange(length + 1)])


def loss_of(weights: Weights, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats a token, of each window's next tokens."""
    logits = forward(TINY, weights, windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, windows[:, 1:]
    ).mean()


def matrices(weights: Any) -> Any:
    """Which weights Muon turns: the layers' stacked matrices; Adam takes the rest."""
    one_layer = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda weight: one_layer if weight.ndim == 3 else None, weights)


def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """Muon, warmed up and cooled down along a cosine; at this size it needs far fewer steps."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.peak_learning_rate, recipe.warmup_steps, recipe.steps
    )
    return muon(
        schedule,
        weight_decay=recipe.weight_decay,
        # optax declares a number here, but takes a schedule.
        adam_learning_rate=lambda step: schedule(step) * recipe.adam_share,  # pyright: ignore
        muon_weight_dimension_numbers=matrices,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def train_step(
    recipe: Recipe, weights: Weights, state: optax.OptState, windows: jax.Array
) -> tuple[Weights, optax.OptState, jax.Array]:
    """One step down the gradient; also the loss before it."""
    loss, gradient = jax.value_and_grad(loss_of)(weights, windows)
    updates, state = optimizer_of(recipe).update(gradient, state, weights)
    updated: Any = optax.apply_updates(weights, updates)
    return updated, state, loss


def validation_loss(weights: Weights, stream: NDArray[np.int32], length: int) -> float:
    """Mean loss over the held-out stream, cut into windows of `length`, in nats a token."""
    starts = np.arange(0, len(stream) - length - 1, length)
    loss = jax.jit(loss_of)
    windows = [
        windows_of(stream, starts[start : start + 1], length)
        for start in range(len(starts))
    ]
    losses = [float(loss(weights, window)) for window in windows]
    return round(float(np.mean(losses)), 4)


def fit(recipe: Recipe, stream: NDArray[np.int32]) -> tuple[Weights, float]:
    """Trains from random weights; returns them and the mean loss of the last 50 steps."""
    generator = np.random.default_rng(recipe.seed)
    weights: Weights = jax.tree.map(jnp.asarray, random_weights(TINY, recipe.seed))
    state = optimizer_of(recipe).init(weights)
    losses = []
    started = time.monotonic()
    for step in range(recipe.steps):
        length = SHORT if (step + 1) % recipe.long_every else LONG
        starts = generator.integers(
            0, len(stream) - length - 1, recipe.tokens_per_step // length
        )
        windows = windows_of(stream, starts, length)
        weights, state, loss = train_step(recipe, weights, state, windows)
        losses.append(float(loss))
        if step % 100 == 99 or step == 0:
            elapsed_s = time.monotonic() - started
            print(
                f"step {step + 1}/{recipe.steps}  loss {losses[-1]:.3f}  {elapsed_s:.0f} s",
                flush=True,
            )
    return weights, float(np.mean(losses[-50:]))


def run(recipe: Recipe, weights_file: pathlib.Path) -> dict[str, Any]:
    """Gathers, trains and stores weights, tokenizer and provenance; returns the provenance."""
    documents, started = gather(), time.monotonic()
    order = np.random.default_rng(recipe.seed).permutation(len(documents))
    kept = [documents[index] for number, index in enumerate(order) if number % HELD_OUT]
    held_out = [
        documents[index] for number, index in enumerate(order) if not number % HELD_OUT
    ]
    tokenizer = train_tokenizer(kept)
    stream = token_stream(tokenizer, kept)
    print(f"{len(documents)} docstrings, {len(stream)} training tokens", flush=True)
    weights, training_loss = fit(recipe, stream)
    provenance = {
        "made_by": "python -m experiments.train_tiny",
        "corpus": "docstrings of Python's standard library (PSF licence)",
        "corpus_sha256": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
        "documents": len(documents),
        "training_tokens": len(stream),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "tokenizers": tokenizers.__version__,
        "recipe": dataclasses.asdict(recipe) | {"short": SHORT, "long": LONG},
        "training_loss_nats_per_token": round(training_loss, 4),
        "validation_loss_nats_per_token": {
            str(number): validation_loss(
                weights, token_stream(tokenizer, held_out), number
            )
            for number in (SHORT, LONG)
        },
        "training_time_s": round(time.monotonic() - started),
    }
    store(weights_file, weights, tokenizer, provenance)
    return provenance


def store(
    weights_file: pathlib.Path,
    weights: Weights,
    tokenizer: Tokenizer,
    provenance: dict[str, Any],
) -> None:
    """Writes NAME.safetensors, NAME_tokenizer.json and NAME.json beside each other."""
    tensors = {name: np.asarray(value) for name, value in flatten(weights).items()}
    tokenizer_file = weights_file.with_name(f"{weights_file.stem}_tokenizer.json")
    config = dataclasses.asdict(TINY)
    description = {
        "config": {
            name: config[name] for name in config if name not in ("name", "source")
        },
        "eos_token_id": tokenizer.token_to_id(EOS),
        "provenance": provenance,
    }
    with (
        written_whole(weights_file) as weights_part,
        written_whole(tokenizer_file) as tokenizer_part,
        written_whole(weights_file.with_suffix(".json")) as description_part,
    ):
        safetensors.numpy.save_file(tensors, weights_part)
        tokenizer.save(str(tokenizer_part), pretty=False)
        description_part.write_text(json.dumps(description, indent=1) + "\n")


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument("--seed", type=cli.whole_number("seed", 0), default="0")


def main(args: argparse.Namespace, output: Output) -> None:
    """Trains the model; without `--out` it takes the place of the one that ships."""
    folder = output.folder or writable_folder(str(DATA))
    provenance = run(Recipe(seed=args.seed), folder / "tiny.safetensors")
    print(json.dumps(provenance, indent=1))
    output.figures("training", provenance)


if __name__ == "__main__":
    cli.run("train_tiny", options, main)
