"""A kernel of one's own: a function, or a `Program`, that is given its arrays by shape.

    gated x=bf16[128,128] w=bf16[8,128,512] v=bf16[8,128,512] buffers=3

`x`, `w` and `v` are arrays of which the clock needs nothing but these shapes. `buffers` is a number
that the function's Python code sees; a `Program` that takes one beside its arrays is given it as
`Known`. `buffers=2,3,4` are candidates, of which `tune` finds the fastest.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from emu import Known, Program
from emu.given import told
from experiments.shared import numbers
from experiments.shared.errors import UsageError
from kernels.trainium.catalogue import Entry

ONE_CORE = {"core": 1}
DTYPES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f8e4m3": "float8_e4m3",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "bool": "bool",
}
ARRAY = re.compile(r"(\w+)\[([^\]]*)\]")  # bf16[128,512]
EXAMPLE = "bf16[128,512]"

Value: TypeAlias = int | float | bool | str
"""What a word gives a parameter: a number, a name, or an array's text such as `bf16[128,512]`."""


def array(text: str) -> jax.ShapeDtypeStruct:
    """The array that `bf16[128,512]` tells of.

    Raises:
      ValueError: it tells of none.
    """
    found = ARRAY.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{told(text)} is no array, which reads DTYPE[SIZES] as {EXAMPLE}"
        )
    dtype, sizes = found.groups()
    name = DTYPES.get(dtype, dtype)
    if name not in DTYPES.values():
        raise ValueError(f"no dtype {dtype!r}, must be one of {', '.join(DTYPES)}")
    shape = [size.strip() for size in sizes.split(",")] if sizes.strip() else []
    try:
        sizes = tuple(numbers.whole("size", size, 1) for size in shape)
    except ValueError:
        raise ValueError(
            f"sizes of {told(text)} must be whole numbers of at least 1, as in {EXAMPLE}"
        ) from None
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(name))


def is_array(value: Value) -> bool:
    """Whether a parameter's value is the text of an array."""
    return isinstance(value, str) and ARRAY.fullmatch(value) is not None


@dataclasses.dataclass(frozen=True)
class OwnKernel:
    """A user's kernel that is not in a catalogue.

    Attributes:
      name: as the user named it, `mine.py:gated`.
      function: of one core.
      program: that the user bound it into; None: it runs on one core.
    """

    name: str
    function: Callable[..., Any]
    program: Program | None = None

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """What the function takes by name, in its order; not its `*args` and `**options`."""
        return {
            name: parameter
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }

    @property
    def place(self) -> str:
        """`file.py:line` of the function, or nothing where Python does not tell."""
        function = inspect.unwrap(self.function)
        while isinstance(function, functools.partial):
            function = function.func
        code = getattr(function, "__code__", None)
        if code is None:
            return ""
        file = code.co_filename.replace("\\", "/").rpartition("/")[2]
        return f" ({file}:{code.co_firstlineno})"

    def value(self, word: str) -> tuple[str, Value | tuple[Value, ...]]:
        """Reads `KEY=VALUE`, or candidates for `tune`: `KEY=VALUE,VALUE`.

        Raises:
          UsageError: the function has no such parameter, or the value is neither an array nor of
            the type of the parameter's default.
        """
        key, equals, text = word.partition("=")
        if not equals or key not in self.parameters:
            known = ", ".join(self.parameters) or "nothing"
            raise UsageError(
                f"{told(word)}: {self.name} takes KEY=VALUE for {known}{self.place}"
            )
        try:
            if "," in text and "[" not in text:
                return key, tuple(self._read(key, part) for part in text.split(","))
            return key, self._read(key, text)
        except ValueError as error:
            raise UsageError(f"{told(word)}: {error}") from None

    def _read(self, key: str, text: str) -> Value:
        default = self.parameters[key].default
        if "[" in text:
            array(text)  # or it complains
            return text
        if isinstance(default, str):
            return text
        if text in ("True", "False"):
            return text == "True"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(
                f"give {key} an array such as {EXAMPLE}, or a number"
            ) from None
        if not math.isfinite(value):
            raise ValueError(f"{key} is {told(text)}, must be a finite number")
        # `1_000` is a whole number, and `1e3` none.
        with contextlib.suppress(ValueError):
            return int(text)
        return value

    def check(self, given: Mapping[str, object]) -> None:
        """That nothing is missing.

        Raises:
          UsageError: a parameter without a default was given nothing, or a program has another
            number of arguments.
        """
        missing = [
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty and name not in given
        ]
        if missing:
            wanted = ", ".join(f"{name}=DTYPE[SIZES]" for name in missing)
            raise UsageError(
                f"{self.name}: give {wanted}, as in {missing[0]}={EXAMPLE}, or a number "
                f"where it takes one{self.place}"
            )
        if self.program is not None:
            specs = len(self.program.in_specs)
            arguments = [name for name in self._arguments if name in given]
            if len(arguments) != specs:
                raise UsageError(
                    f"{self.name}: {len(arguments)} arguments for {specs} in_specs of the "
                    f"program{self.place}"
                )

    @property
    def _arguments(self) -> list[str]:
        """The parameters that a program's `in_specs` are for, the first ones."""
        assert self.program is not None
        return list(self.parameters)[: len(self.program.in_specs)]

    def entry(self, candidates: Mapping[str, tuple[Value, ...]]) -> Entry:
        """The kernel as reports and `tune` know kernels; its useful FLOPs are not known."""
        defaults = {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if type(parameter.default) in (int, str) and name not in candidates
        }
        return Entry(
            name=self.name,
            summary=(inspect.getdoc(self.function) or "").partition("\n")[0],
            build=self.build,
            sizes=defaults,
            tunable=dict(candidates),
            useful_flops=lambda **_: 0,
            useful_bytes=lambda **_: 0,
        )

    def build(self, **given: Value) -> tuple[Program, tuple[Any, ...]]:
        """The program and its abstract arguments."""
        if self.program is not None:
            return self._given_to_program(self.program, given)
        arrays = {
            name: array(str(value)) for name, value in given.items() if is_array(value)
        }
        statics = {name: value for name, value in given.items() if name not in arrays}
        kernel = self._of_arrays(list(arrays), statics)
        program = Program(kernel, ONE_CORE, ((),) * len(arrays))
        return program, tuple(arrays.values())

    def _of_arrays(
        self, names: list[str], statics: Mapping[str, Value]
    ) -> Callable[..., Any]:
        """The function with its numbers bound, of the named arrays alone."""
        signature = inspect.signature(self.function)

        def kernel(*arrays: Any) -> Any:
            bound = signature.bind_partial()
            named = {**dict(zip(names, arrays, strict=True)), **statics}
            # In the signature's order, which positional parameters rely on.
            bound.arguments.update(
                {name: named[name] for name in self.parameters if name in named}
            )
            return self.function(*bound.args, **bound.kwargs)

        return kernel

    def _given_to_program(
        self, program: Program, given: Mapping[str, Value]
    ) -> tuple[Program, tuple[Any, ...]]:
        """The user's own program; what it takes beside its arguments is bound into its kernel."""
        arguments = [given[name] for name in self._arguments]
        options = {
            name: value for name, value in given.items() if name not in self._arguments
        }
        if options:
            kernel = functools.partial(program.kernel, **options)
            program = dataclasses.replace(program, kernel=kernel)
        return program, tuple(
            array(str(value)) if is_array(value) else Known(value)
            for value in arguments
        )
