"""The KV cache's way to the wafer: which bytes from which chip, streamed or in bulk."""

import dataclasses

import jax.numpy as jnp
import pytest

from emu.interconnect import EFA
from models.config import ModelConfig
from models.layer_form import Latent
from models.machines.handoff import handoff, token_bytes

CONFIG = ModelConfig(
    name="tiny",
    model_type="llama",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=100,
    max_position_embeddings=4096,
    rope_theta=1e4,
    rope_scaling=None,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    source="made up",
)
LINK = EFA.at()
DONE_S = [0.1, 0.2, 0.3, 0.4]


def moved(stream="layer", held=(300, 300, 300, 100), done=DONE_S, dtype=jnp.bfloat16):
    return handoff(
        CONFIG,
        LINK,
        held=held,
        dtype=dtype,
        layer_done_s=done,
        prefill_s=0.41,
        stream=stream,
    )


@pytest.mark.parametrize("dtype, itemsize", [(jnp.float32, 4), (jnp.bfloat16, 2)])
@pytest.mark.parametrize("stream", ["layer", "bulk"])
def test_bytes(stream, dtype, itemsize):
    """Tokens x layers x keys and values x KV heads x head size x bytes; padding is not sent."""
    assert token_bytes(CONFIG, dtype) == 2 * 2 * 16 * itemsize
    assert (
        moved(stream, dtype=dtype).transfer.nbytes == 1000 * 4 * 2 * 2 * 16 * itemsize
    )


def test_a_latent_and_its_turned_key_are_sent() -> None:
    """DeepSeek-V3's, in bfloat16: 512 features and 64, whatever heads there are."""
    latent = Latent(1536, rank=512, plain=128, turned=64, value_dim=128)
    config = dataclasses.replace(CONFIG, model_type="deepseek_v3", latent=latent)
    assert token_bytes(config, jnp.bfloat16) == (512 + 64) * 2


def test_one_message_a_layer_and_chip():
    """Chips hold 300, 300, 300 and 100 tokens."""
    assert len(moved().transfer.arrived_s) == 4 * 4
    assert len(moved(held=(0, 1, 0)).transfer.arrived_s) == 4


def test_streaming_hides_all_but_the_last_layer():
    """Bulk waits for everything to be sent; streaming for what layer 4 sends after 0.4 s."""
    layer, bulk = moved("layer"), moved("bulk")
    assert layer.exposed_s < bulk.exposed_s
    busiest = 4 * max(300 * token_bytes(CONFIG, jnp.bfloat16) / 22.8e9, 1 / 92_000)
    assert bulk.exposed_s == pytest.approx(busiest + 15e-6, rel=1e-6)
    assert layer.exposed_s == 0.0  # sent 10 ms before prefill ends
    assert layer.transfer.started_s == DONE_S[0]
    assert bulk.transfer.started_s == pytest.approx(0.41)


def test_exposed_is_from_the_end_of_prefill():
    """A last layer that is done as prefill ends exposes its own message."""
    late = moved(done=[0.1, 0.2, 0.3, 0.41])
    own = max(300 * token_bytes(CONFIG, jnp.bfloat16) / 22.8e9, 1 / 92_000)
    assert late.exposed_s == pytest.approx(own + 15e-6, rel=1e-6)
    assert late.time_s == pytest.approx(0.41 - 0.1 + own + 15e-6, rel=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="'token', must be one of layer, bulk"):
        moved("token")
    with pytest.raises(ValueError, match="3 layers' times, the model has 4"):
        moved(done=DONE_S[:3])


def test_wider_caches_take_longer():
    wide = dataclasses.replace(CONFIG, num_key_value_heads=4)
    both = [
        handoff(
            c,
            LINK,
            held=(25_000,) * 4,
            dtype=jnp.float32,
            layer_done_s=DONE_S,
            prefill_s=0.41,
            stream="bulk",
        ).time_s
        for c in (CONFIG, wide)
    ]
    assert both[1] == pytest.approx(2 * both[0], rel=0.02)  # but for the latency
