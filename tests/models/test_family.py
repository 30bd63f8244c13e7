"""Families: their tables against the gguf package's own, and what the lookups refuse."""

from typing import Any

import gguf
import pytest

from models.errors import ModelError
from models.family import FAMILIES, Family, by_gguf_architecture, by_model_type

EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@EACH
def test_gguf_names_are_what_llama_cpp_converts_to(family: Family) -> None:
    """The gguf package has a table of its own, from Hugging Face's names to GGUF's."""
    architectures = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
    code = architectures[family.gguf_architecture or "llama"]
    theirs = gguf.get_tensor_name_map(code, 2)
    hugging_face = family.names_in("hugging_face", layers=2, tied=False)
    ours = family.names_in("gguf", layers=2, tied=False)
    assert hugging_face.keys() == ours.keys()
    for name, stored in hugging_face.items():
        assert theirs.get_name(stored, try_suffixes=(".weight", ".bias")) == ours[name]


@EACH
def test_a_tied_model_has_all_tensors_but_the_head(family: Family) -> None:
    tied = family.names_in("gguf", layers=1, tied=True)
    untied = family.names_in("gguf", layers=1, tied=False)
    assert untied.items() - tied.items() == {("head", "output.weight")}


def test_families_are_found_by_either_name() -> None:
    for family in FAMILIES.values():
        assert by_model_type(family.model_type, "a model") is family
        if family.gguf_architecture is not None:
            found = by_gguf_architecture(family.gguf_architecture, "a model")
            assert found is family


@pytest.mark.parametrize("model_type", ["gemma", None, ["llama"], 3])
def test_others_are_refused_with_a_list_of_those_known(model_type: Any) -> None:
    with pytest.raises(ModelError, match="model_type .* supported are .*'llama'"):
        by_model_type(model_type, "a model")
    with pytest.raises(ModelError, match="a model: architecture .*'llama', 'qwen3'"):
        by_gguf_architecture("gemma", "a model")
