"""Counts the parameters of published models as transformers builds them, without their values.

Run `python tests/models/count_parameters.py` where `torch` and `transformers` are installed; it
rewrites `tests/models/data/parameter_counts.json`. It imports nothing of this project, so the two
stay independent. Kimi-K3, whose activation transformers 5.24 lacks, is left out.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
CONFIGURATIONS = HERE.parents[1] / "models" / "data" / "configurations.json"


def count(values: dict) -> int:
    """Parameters of the model that a config describes."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    values = {key: value for key, value in values.items() if key != "architectures"}
    # Kimi-K2 computes what DeepSeek-V3 does.
    kind = values.pop("model_type").replace("kimi_k2", "deepseek_v3")
    config = transformers.AutoConfig.for_model(kind, **values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    import transformers  # pyright: ignore[reportMissingImports]

    models = json.loads(CONFIGURATIONS.read_text())["models"]
    counts = {
        name: count(model["config"])
        for name, model in models.items()
        if model["config"]["model_type"] != "kimi_linear"
    }
    found = {
        "made_by": "tests/models/count_parameters.py",
        "transformers": transformers.__version__,
        "parameters": counts,
    }
    path = HERE / "data" / "parameter_counts.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
