"""A kernel in a file: loaded as it stands, with what reports call it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from emu.trainium.nki import load
from emu.trainium.nki.kernel import Kernel
from experiments.shared.errors import UsageError
from kernels import user_file


@dataclasses.dataclass(frozen=True)
class KernelFile:
    """A kernel of a file.

    Attributes:
      reference: the file and the kernel's name, as the user wrote them.
      kernel: decorated or not.
      api: `neuronxcc.nki` or `nki`, by what the file imports.
    """

    reference: user_file.Reference
    kernel: Callable[..., Any]
    api: str

    @property
    def title(self) -> str:
        """What reports call it: `mine.py:softmax`."""
        name = self.reference.name or getattr(self.kernel, "__name__", "kernel")
        return f"{self.reference.path.name}:{name}"

    @contextlib.contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """Inside, the kernel may import what its file may, and its errors are one line each."""
        with (
            load.present(getattr(self.kernel, "func", self.kernel)),
            user_file.errors_in_one_line(self.reference),
        ):
            yield


def kernel_file(text: str) -> KernelFile:
    """The kernel that `FILE.py:KERNEL` names, or the only one of `FILE.py`.

    Raises:
      UsageError: it names none.
      EmulationError: the file cannot be imported.
    """
    reference = user_file.reference(text)
    if reference is None:
        raise UsageError(f"{text}: must be FILE.py:KERNEL")
    with user_file.errors_in_one_line(reference):
        module = load.load(reference.path)
    name = reference.name or _only(text, vars(module))
    with user_file.errors_in_one_line(reference):
        kernel = load.kernel(module, name)
        api = load.api(module)
    return KernelFile(
        dataclasses.replace(reference, name=name),
        kernel,
        getattr(kernel, "api", api),
    )


def _only(text: str, names: dict[str, Any]) -> str:
    kernels = [name for name, value in names.items() if isinstance(value, Kernel)]
    if len(kernels) != 1:
        has = ", ".join(kernels) or "none that is decorated with nki.jit"
        raise UsageError(f"{text}: which kernel? name {text}:KERNEL; it has {has}")
    return kernels[0]


__all__ = ["KernelFile", "kernel_file"]
