"""Small models and a rack for tests of prefill plans."""

import dataclasses

from emu.trainium import TRN3
from emu.trainium.datasheets import TRN3_GEN2, on_system
from models.configurations import published
from models.precision import precision
from models.prefill_plans.setting import Setting

CORES = 2


def setting(name, *, layers, held="bfloat16", **sizes):
    """A published model made small."""
    config = dataclasses.replace(
        published(name).config, num_hidden_layers=layers, **sizes
    )
    return Setting(config, precision(held), on_system(TRN3, TRN3_GEN2))


def dense(layers=4):
    return setting(
        "llama-3.1-8b",
        layers=layers,
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=1024,
    )


def mixture(layers=2):
    of_published = published("qwen3-30b-a3b").config.experts
    assert of_published is not None
    return setting(
        "qwen3-30b-a3b",
        layers=layers,
        hidden_size=256,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=1024,
        experts=dataclasses.replace(of_published, count=8, chosen=2, width=128),
        expert_layers=(True,) * layers,
    )
