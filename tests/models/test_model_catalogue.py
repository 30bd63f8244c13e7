"""The catalogue agrees with what is published."""

import pytest

from models.catalogue import CATALOGUE, TINY, find
from models.errors import ModelError


# Published sizes in billions, from the models' cards.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("smollm2-135m", 0.135),
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.6),
        ("qwen3-0.6b", 0.6),
        ("qwen3-32b", 32.8),
        ("mistral-nemo-12b", 12.2),
    ],
)
def test_parameters_are_as_published(name: str, billions: float) -> None:
    assert CATALOGUE[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_catalogue_names_what_it_knows() -> None:
    assert find("tiny") is TINY
    with pytest.raises(ModelError, match="no model named 'tony'.*tiny"):
        find("tony")
