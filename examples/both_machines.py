"""A model through both machines: prefill on chips, hand-off, decode on a wafer, and the clock."""

# %% load
import jax.numpy as jnp

import models

loaded = models.load("tiny")
prompt = loaded.tokenizer.encode("Return the number of elements in the")
print(loaded.config.num_hidden_layers, "layers,", len(prompt), "prompt tokens")

# %% run
new_tokens = 6
machines = models.Disaggregated(
    loaded.config,
    loaded.weights,
    tokens=len(prompt),
    new_tokens=new_tokens,
    chips=2,
    dtype=jnp.float32,
)
first = machines.prefill.run(prompt)
tokens = [first.token]
for token, _ in machines.decode(first.token, first.k, first.v):
    tokens.append(token)
    if len(tokens) == new_tokens:
        break
print(repr(loaded.tokenizer.decode(tokens)))

# %% oracle
plain = models.from_weights(loaded.config, loaded.weights)
expected, _ = models.generate(plain, prompt, new_tokens)
print(
    "what plain float32 JAX says:",
    "the same tokens" if tokens == expected else expected,
)

# %% clock
clock = machines.read(new_tokens)
for band in ("low", "nominal", "high"):
    prefill = clock.prefill[band].clock.seconds * 1e6
    handoff = clock.handoff[band].exposed_s * 1e6
    step = clock.steps[band][0].seconds * 1e6
    print(
        f"{band:8} prefill {prefill:6.0f} us, hand-off exposed {handoff:4.0f} us, ",
        end="",
    )
    print(f"a token {step:4.0f} us")
print("prefill is bound by:", clock.prefill_bound)
print("decode is bound by:", clock.decode_bound)
