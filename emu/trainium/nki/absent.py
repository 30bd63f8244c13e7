"""Modules that a kernel's file imports and a kernel does not need: empty ones, where they are not.

A file with a kernel has often its own test beside it, which imports torch. The import is let
through; a use is an error that names what is missing.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

from emu.errors import NkiError

NAMES = (
    *("torch", "torch_xla", "torch_neuronx", "torchvision", "libneuronxla"),
    *("neuronx_distributed", "neuronx_distributed_inference", "neuronxcc", "nki"),
    *("transformers", "pytest", "scipy", "tqdm", "pandas", "einops", "triton"),
)


class AbsentType(type):
    """What an absent module's attributes are: classes, so that others may derive from them."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        raise NkiError(f"{cls.__qualname__}: its module is not installed here")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{cls.__qualname__}.{name}")


def absent(name: str) -> AbsentType:
    """A stand-in for something of an absent module."""
    return AbsentType(name.rpartition(".")[2], (), {"__qualname__": name})


class AbsentModule(types.ModuleType):
    """An empty module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}")


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last on `sys.meta_path`: finds what nothing else has found."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def forget() -> None:
    """Takes empty modules out of `sys.modules` again."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, AbsentModule):
            del sys.modules[name]
