"""Settings every test runs under: no silent rank or dtype promotion, eight virtual CPU devices.

Also what makes the whole run shorter and no test weaker: programs are compiled with little
optimization where values are held to a tolerance, what is compiled once is kept, and Python looks
for garbage less often. What a worker keeps of programs it gives back when that is much.
"""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
# Compiling takes half of a kernel's test, and half of that when it is done hastily. Commands
# that tests run inherit it. With 0 in the environment all tests compile as users' programs do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

from emu.program import HASTILY, STRICT  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Of all that tests compile, small programs are most.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

MAY_BE_HASTY = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
OF_MACHINES = Path(__file__).parent / "emu"

# In how many parts a program is compiled has no say in its values, so that is for all tests and
# for the commands that they run; XLA reads it as the first program is compiled.
PARTS = "xla_cpu_parallel_codegen_split_count"
if MAY_BE_HASTY and PARTS in HASTILY:
    os.environ["XLA_FLAGS"] += f" --{PARTS}={HASTILY[PARTS]}"


def _tell_jax_0_10() -> None:
    """What a program's options have, also for all else that is compiled hastily.

    The setting of JAX's own, above, leaves the emitters of JAX 0.10 at work, which take half of
    such a compilation, and there is no public way to tell `jax.jit` of everyone else.
    """
    from jax._src import compiler

    options_of = compiler.get_compile_options

    def get_compile_options(*args: Any, **named: Any) -> Any:
        options = options_of(*args, **named)
        if (
            HASTILY.items() <= STRICT.items()
        ):  # the test that runs compiles so, see below
            overrides = {**HASTILY, **dict(options.env_option_overrides)}
            options.env_option_overrides = list(overrides.items())
        return options

    compiler.get_compile_options = get_compile_options


if MAY_BE_HASTY and jax.__version_info__ < (0, 11):
    _tell_jax_0_10()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the emulator compile as users' programs do, and so do the slow and `optimized` ones.

    What an instruction gives is compared bit by bit, and the compiler may change how it rounds;
    a kernel's values are held to a tolerance, which its optimized form meets in the slow tests.
    """
    optimized = OF_MACHINES in item.path.parents or any(
        item.get_closest_marker(name) for name in ("slow", "optimized")
    )
    hastily = MAY_BE_HASTY and not optimized
    if not hastily and HASTILY.items() <= STRICT.items():
        # JAX finds what it compiled by function and shapes, however that was compiled.
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", hastily)
    # Of programs, whose options are these as they are made.
    for name, value in HASTILY.items():
        if hastily:
            STRICT[name] = value
        else:
            STRICT.pop(name, None)


# Files whose few tests take longest go first: two workers then end together.
LONGEST = (
    "test_quickstart.py",
    "test_prefill.py",
    "test_examples.py",
    "test_flash.py",
    "test_family.py",
    "test_own_kernels.py",
    "test_context_poison.py",
    "test_cli.py",
    "test_instruction_list.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files of `LONGEST` before all others, whose order stays."""

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: searching them for garbage finds none, again and again."""
    gc.collect()
    gc.freeze()
    # Thresholds of 700, 10 and 10 spend 8 % of the run on large jaxprs that are all in use.
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """A program that was compiled in this run of the tests is not compiled again, in no worker.

    What comes from the disk is the machine code itself, so values are the same. The folder is this
    run's own: no earlier state of the project has a part in it.
    """
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a worker's own folder is in the run's
        folder = folder.parent
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


# Of two workers that is less than a laptop has.
MOST_RESIDENT_BYTES = 1_500_000_000
RESIDENT = Path("/proc/self/statm")


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """Behind a file that leaves a worker large, it forgets all jaxprs and compiled programs.

    JAX keeps each for as long as the process runs, and 9,900 tests make thousands. What another
    file asks for again comes from the disk.
    """
    yield
    if not RESIDENT.exists():  # it is of Linux alone
        return
    _, pages, *_ = RESIDENT.read_text().split()
    if int(pages) * os.sysconf("SC_PAGE_SIZE") < MOST_RESIDENT_BYTES:
        return
    jax.clear_caches()
    gc.collect()
    # The C library keeps what is freed in pieces, unless it is told.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
