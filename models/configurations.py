"""Configurations of published models, as their `config.json` states them, with sources."""

import dataclasses
import functools
import importlib.resources
import json
from typing import Any

from models.config import ModelConfig
from models.errors import ModelError
from models.loading.hf_config import from_hf
from models.outlines import Outline, computed_values, outline


@dataclasses.dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        name: What reports call it.
        hf_id: Its repository at Hugging Face.
        source: Where the config was read.
        published_parameters: As its authors state it, in as many digits.
        values: The config's contents.
    """

    name: str
    hf_id: str
    source: str
    published_parameters: float
    values: dict[str, Any]

    @property
    def model_type(self) -> str:
        """Its family, as Hugging Face calls it."""
        return self.values["model_type"]

    @functools.cached_property
    def outline(self) -> Outline:
        """What it holds."""
        return outline(self.name, self.values)

    @functools.cached_property
    def config(self) -> ModelConfig:
        """Its sizes; ModelError where its family is not computed here."""
        return from_hf(computed_values(self.values), self.name, self.source)


@functools.cache
def published_models() -> dict[str, Published]:
    """All of them, by name."""
    data = importlib.resources.files("models") / "data" / "configurations.json"
    models = json.loads(data.read_text(encoding="utf-8"))["models"]
    return {
        name: Published(
            name=name,
            hf_id=stated["hf_id"],
            source=stated["source"],
            published_parameters=stated["published_parameters"],
            values=stated["config"],
        )
        for name, stated in models.items()
    }


def published(name: str) -> Published:
    """One of them; ModelError listing the known names where there is none."""
    models = published_models()
    if name not in models:
        raise ModelError(f"no published model named {name!r}; known are {list(models)}")
    return models[name]


__all__ = ["Published", "published", "published_models"]
