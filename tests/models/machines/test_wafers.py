"""A model cut over wafers: the oracle's tokens, users with caches of their own, and its clock."""

import numpy as np
import pytest

from models.loading.hf_folder import load_hf_folder
from models.machines.decode import Decoder
from models.machines.disaggregated import Disaggregated
from models.plain import oracle
from models.plain.transformer import from_weights
from tests.models.conftest import DATA
from tests.models.machines.test_prefill import prompt_of


@pytest.mark.slow
def test_two_wafers_give_the_oracles_tokens() -> None:
    """Experts and latents, prefilled on two chips and decoded on two wafers."""
    config, weights, _ = load_hf_folder(DATA / "deepseek_v3")
    prompt, new = prompt_of(config, 12), 4
    machine = Disaggregated(
        config,
        weights,
        tokens=len(prompt),
        new_tokens=new,
        chips=2,
        dtype=np.dtype("float32"),
        users=2,
        wafers=2,
    )
    plan = machine.decoder.plan
    assert plan.wafers == 2 and plan.users == 2 and plan.head_wafer == 1
    assert set(plan.of_wafers) == {0, 1}
    first = machine.prefill.run(prompt)
    rest = machine.decode(first.token, first.k, first.v)
    tokens = [first.token, *(next(rest)[0] for _ in range(new - 1))]
    model = from_weights(config, weights)
    expected, _ = oracle.generate(model, prompt, new, frozenset())
    assert tokens == list(expected)
    step = machine.read(new, counts=first.counts).steps["nominal"][0]
    stages = machine.decoder.clock.stages(len(prompt), "nominal")
    assert sum(stage.cycles for stage in stages) == step.cycles
    # Into the first layer from the head's wafer, and over the cut.
    crossing = [stage.name for stage in stages if stage.crosses]
    assert crossing == ["layer 0", f"layer {plan.of_wafers.index(1)}"]
    assert step.io_bytes == 2 * 4 * plan.head.rows * plan.head.depth


def test_each_user_has_a_cache_of_its_own() -> None:
    """Two users' steps in turn are each one's alone, bit by bit."""
    config, weights, _ = load_hf_folder(DATA / "llama_gqa_tied_llama3")
    decoder = Decoder(config, weights, context=8, users=2, wafers=2)
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (2, 4))

    def logits_of(prompt: np.ndarray) -> list[np.ndarray]:
        cache, found = decoder.empty_cache(), []
        for pos, token in enumerate(prompt):
            _, logits, cache = decoder.step(token, pos, cache)
            found.append(np.asarray(logits))
        return found

    alone = [logits_of(prompt) for prompt in prompts]
    caches = [decoder.empty_cache() for _ in prompts]
    for pos in range(4):
        for user, prompt in enumerate(prompts):
            _, logits, caches[user] = decoder.step(prompt[pos], pos, caches[user])
            assert np.array_equal(np.asarray(logits), alone[user][pos])
    one = Decoder(config, weights, context=8, wafers=2).plan.layer_bytes
    two = decoder.plan.layer_bytes
    assert two["cache"] == 2 * one["cache"] and two["weights"] == one["weights"]
