"""Tensors of a safetensors file as they are stored, those of eight bits included.

The package checks the header and every tensor's place in the file when it opens one. It cannot give
FP8 to NumPy, so such a tensor's bytes are read here, from where the checked header says.
"""

import json
import math
import pathlib
import struct
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from numpy.typing import NDArray

from models.errors import ModelError
from models.loading.untrusted import check_regular

FP8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn}
FLOATS = ("F32", "F16", "BF16")
INTEGERS = ("U8", "I32", "I64")
DTYPES = (*FLOATS, *INTEGERS, *FP8)


class Shard:
    """An open safetensors file.

    Args:
        path: The file; untrusted.

    Raises:
        ModelError: It is missing, truncated or corrupt.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        size_bytes = check_regular(path)
        try:
            self._file: Any = safetensors.safe_open(path, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: not a whole safetensors file of {size_bytes} bytes ({error}); "
                "fetch it again"
            ) from None

    def names(self) -> set[str]:
        """The tensors that it holds."""
        return set(self._file.keys())

    def dtype(self, name: str) -> str:
        """How a tensor is stored, as safetensors calls it: `"BF16"`, `"F8_E4M3"`, `"I32"`, …."""
        return self._file.get_slice(name).get_dtype()

    def read(self, name: str, dtypes: tuple[str, ...] = FLOATS) -> NDArray[Any]:
        """A tensor as it is stored.

        Args:
            name: Of the tensor.
            dtypes: What it may be stored as, of `DTYPES`.

        Raises:
            ModelError: It is stored otherwise, or its bytes cannot be read.
        """
        try:
            # Of the header: it is refused before NumPy meets a dtype that it has not.
            dtype = self.dtype(name)
            if dtype not in dtypes:
                raise ModelError(
                    f"{self.path}: tensor {name} must be one of {dtypes}, got {dtype}; "
                    "what its config.json does not announce is not supported"
                )
            if dtype in FP8:
                return self._bytes(name).view(FP8[dtype]).reshape(self._shape(name))
            return self._file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise ModelError(
                f"{self.path}: cannot read tensor {name} ({error}); fetch it again"
            ) from None

    def _shape(self, name: str) -> list[int]:
        return self._file.get_slice(name).get_shape()

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor of which each element is one."""
        size = math.prod(self._shape(name))
        try:
            with self.path.open("rb") as file:
                (header_bytes,) = struct.unpack("<Q", file.read(8))
                first, last = json.loads(file.read(header_bytes))[name]["data_offsets"]
                file.seek(8 + header_bytes + first)
                raw = file.read(size)
        except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError):
            raw, first, last = b"", 0, -1
        # It was whole when it was opened, which may be long ago, and two readers of JSON may take
        # an ambiguous header differently.
        if not len(raw) == size == last - first:
            raise ModelError(
                f"{self.path}: tensor {name} is not where the header says, or the file changed "
                "while it was read; fetch it again"
            )
        return np.frombuffer(raw, np.uint8)


__all__ = ["DTYPES", "FLOATS", "FP8", "INTEGERS", "Shard"]
