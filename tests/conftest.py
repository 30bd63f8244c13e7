"""Settings every test runs under: no silent rank or dtype promotion, eight virtual CPU devices."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Files whose few tests take longest go first: two workers then end together.
LONGEST = (
    "test_readme.py",
    "test_quickstart.py",
    "test_trn_layer.py",
    "test_examples.py",
    "test_fuzz.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files of `LONGEST` before all others, whose order stays."""

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
