"""The modules that kernel files import: `neuronxcc.nki` and `nki`, made of our tables.

`installed()` puts them into `sys.modules` while a file is imported and takes them out afterwards.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from emu.errors import NkiError
from emu.trainium.nki import absent, index, old
from emu.trainium.nki.dtypes import DTYPES
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.make import Allocation
from emu.trainium.nki.kernel import decorator
from emu.trainium.nki.record import recording

OLD = "neuronxcc.nki"
NEW = "nki"


def _called(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that refuses arguments it does not have in NKI's terms."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except TypeError as error:
            # Of this call itself, not of what the function does: nothing lies deeper.
            traceback = error.__traceback__
            if traceback is None or traceback.tb_next is not None:
                raise
            told = str(error).partition("()")[2].strip() or str(error)
            takes = ", ".join(inspect.signature(function).parameters)
            _refuse(name, f"{told}; it takes {takes}")

    call.__name__ = getattr(function, "__name__", name.rpartition(".")[2])
    call.__doc__ = function.__doc__
    return call


def _refuse(name: str, what: str) -> NoReturn:
    if recording():
        refuse(name, what)
    raise NkiError(f"{name}: {what}")


class Unsupported:
    """A name of NKI that is not supported: an error once it is used."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *arguments: Any, **keywords: Any) -> NoReturn:
        _refuse(self.name, "this function is not supported")

    def __getattr__(self, name: str) -> "Unsupported":
        if name.startswith("__") or name == "operator":
            raise AttributeError(name)
        return Unsupported(f"{self.name}.{name}")


class StubModule(types.ModuleType):
    """A module of ours under the vendor's name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unsupported(f"{self.__name__.removeprefix('neuronxcc.')}.{name}")


def module(name: str, table: Mapping[str, object]) -> StubModule:
    """A module with the names of a table; functions check their arguments."""
    made = StubModule(name)
    made.__path__ = []
    title = name.removeprefix("neuronxcc.")
    for key, value in table.items():
        # Not `nl.arange`, which kernels call by the hundred thousand.
        if isinstance(value, types.FunctionType) and value is not index.arange:
            value = _called(f"{title}.{key}", value)
        setattr(made, key, value)
    return made


class TensorType:
    """`nt.tensor`: nothing in annotations; `nt.tensor[[128, 512], nl.float32]` is a shape."""

    def __class_getitem__(cls, key: object) -> Any:
        if not isinstance(key, tuple) or len(key) != 2:
            return cls
        shape, dtype = key
        if not isinstance(shape, list | tuple):
            return cls
        return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))


# --- the compiler's directives, of which only places in PSUM and SBUF mean something here ---


def _unchanged(function: Any = None, *arguments: Any, **keywords: Any) -> Any:
    """A decorator that says how to compile: the function as it is."""
    return function if callable(function) else (lambda inner: inner)


@contextlib.contextmanager
def _no_reorder() -> Iterator[None]:
    yield


def _places(space: str) -> types.SimpleNamespace:
    """`ncc.sbuf` or `ncc.psum`: allocators."""

    def allocate(*arguments: Any, **keywords: Any) -> Allocation:
        return Allocation(space)

    return types.SimpleNamespace(
        alloc=allocate, mod_alloc=allocate, auto_alloc=allocate
    )


COMPILER: Mapping[str, object] = {
    "sbuf": _places("sbuf"),
    "psum": _places("psum"),
    "skip_middle_end_transformations": _unchanged,
    "enable_stack_allocator": _unchanged,
    "force_auto_alloc": _unchanged,
    "no_reorder": _no_reorder,
}


# --- modules ---


def _package(
    root: str, language: Mapping[str, object], isa: Mapping[str, object]
) -> dict[str, types.ModuleType]:
    jit = decorator(root)
    made: dict[str, types.ModuleType] = {
        f"{root}.language": module(f"{root}.language", {**language, **DTYPES}),
        f"{root}.isa": module(f"{root}.isa", isa),
        f"{root}.compiler": module(f"{root}.compiler", COMPILER),
        f"{root}.typing": module(
            f"{root}.typing", {"tensor": TensorType, "mutable_tensor": TensorType}
        ),
    }
    top: dict[str, object] = {
        "jit": jit,
        "trace": jit,
        "simulate_kernel": simulate,
        "tensor": TensorType,
    }
    for name in ("benchmark", "profile", "baremetal", "simulate"):
        top[name] = decorator(root, purpose=name)
    made[root] = module(root, {})
    for name, value in top.items():
        setattr(made[root], name, value)
    for name, each in made.items():
        if name != root:
            setattr(made[root], name.rpartition(".")[2], each)
    return made


def simulate(kernel: Any, *arguments: Any, **keywords: Any) -> Any:
    """`nki.simulate_kernel(kernel, *arrays)`."""
    return kernel(*arguments, **keywords)


@functools.cache
def modules() -> Mapping[str, types.ModuleType]:
    """Every stub module by its name."""
    made = _package(OLD, old.LANGUAGE, old.ISA)
    parent = StubModule("neuronxcc")
    parent.__path__ = []
    setattr(parent, "nki", made[OLD])
    made["neuronxcc"] = parent
    if importlib.util.find_spec("emu.trainium.nki.new") is not None:
        new = importlib.import_module("emu.trainium.nki.new")
        made.update(_package(NEW, new.LANGUAGE, new.ISA))
        for name, table in getattr(new, "MODULES", {}).items():
            made[f"{NEW}.{name}"] = each = module(f"{NEW}.{name}", table)
            parent_name, _, last = f"{NEW}.{name}".rpartition(".")
            if parent_name in made:
                setattr(made[parent_name], last, each)
    return made


@contextlib.contextmanager
def installed() -> Iterator[Mapping[str, types.ModuleType]]:
    """The stub modules in `sys.modules`, and empty ones for what is not there (`absent`)."""
    made = modules()
    before = {name: sys.modules.get(name) for name in made}
    finder = absent.AbsentFinder()
    sys.modules.update(made)
    sys.meta_path.append(finder)
    try:
        yield made
    finally:
        sys.meta_path.remove(finder)
        absent.forget()
        for name, value in before.items():
            if value is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = value


__all__ = ["installed", "module", "modules"]
