"""A named grid of cores: one kernel, run on all of them as nested `vmap` or under `shard_map`.

`Program` binds a kernel, written for one core, to a mesh. The same object runs it, under strict
precision, and reads its clock, so values and time are always of the same kernel.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from emu.checks import memory, precision
from emu.clock import timeline
from emu.clock.reading import Reading
from emu.datasheet import BANDS, Device, Sheet
from emu.tracing import jaxpr as jx
from emu.tracing import side_by_side

Spec = tuple[str | None, ...]

# XLA keeps float32 between bfloat16 operations unless told not to: 868 of 1,001 multiply-adds
# differ under `jit` without this.
STRICT = {"xla_allow_excess_precision": False}


@dataclasses.dataclass(frozen=True)
class Known:
    """An integer argument whose value the clock may use: a length, a table of distances."""

    value: Any


def strict_jit(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` that rounds every intermediate to its own dtype."""
    return jax.jit(fn, compiler_options=STRICT, **options)


@dataclasses.dataclass(frozen=True)
class Program:
    """A kernel of one core on every core of a mesh.

    Attributes:
      kernel: function over arrays (pytrees) of one core.
      mesh: axis name to size, outermost first.
      in_specs: per argument, a spec or a pytree of specs (a prefix of the argument's): which
        dimension is split over which axis, as in `PartitionSpec`; `()` gives every core the whole.
        A split dimension has the axis' size and is absent on the core.
      out_specs: the same for results; by default every mesh axis leads.
    """

    kernel: Callable[..., Any]
    mesh: Mapping[str, int]
    in_specs: tuple[Any, ...]
    out_specs: Any = None

    def run(self, *args: Any, in_order: bool = False) -> Any:
        """Runs the kernel on real arrays, as nested `vmap` on one device.

        Args:
          *args: the kernel's arguments, by the program's specs.
          in_order: computes independent tiles one after another, from the very jaxpr that `read`
            times, instead of side by side (`emu.tracing.side_by_side`). It takes longer; results
            agree to rounding, as sums over tiles are then added in another order.
        """
        with side_by_side.in_order() if in_order else contextlib.nullcontext():
            return self.compiled(*map(_unwrap, args))

    def exact(self, *args: Any) -> Any:
        """Runs the kernel in float64: its floating arguments, tiles and arithmetic.

        `emu.checks.precision` finds what would stay narrower.

        Returns:
          The kernel's results as NumPy arrays, because JAX rounds float64 outside the context.

        Raises:
          NotExact: an instruction without a float64 counterpart, or a tile that stays narrower.
        """
        wide = jax.tree.map(precision.widen, tuple(map(_unwrap, args)))
        with precision.exact():
            precision.check(self.trace(wide)[0])
            return jax.tree.map(np.asarray, self.compiled(*wide))

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The jitted program under strict precision."""
        return strict_jit(self.batched)

    @functools.cached_property
    def batched(self) -> Callable[..., Any]:
        """The kernel as nested `vmap`, one level per mesh axis."""
        fn, remaining = self.kernel, list(self.mesh)
        out = self.out_specs if self.out_specs is not None else tuple(self.mesh)
        while remaining:  # innermost axis first
            axis = remaining.pop()
            ins = tuple(_axis_of(s, axis, remaining) for s in self.in_specs)
            outs = _axis_of(out, axis, remaining)
            fn = jax.vmap(
                fn,
                in_axes=ins,
                out_axes=outs,
                axis_name=axis,
                axis_size=self.mesh[axis],
            )
        return fn

    def sharded(self, check_vma: bool = True) -> Callable[..., Any]:
        """The same kernel under `shard_map` on as many real devices as the mesh has cores."""
        sizes = tuple(self.mesh.values())
        names = tuple(self.mesh)
        mesh = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
        out = self.out_specs if self.out_specs is not None else names

        def local(*args: Any) -> Any:
            squeezed = [_on_leaves(_squeeze, s, a) for s, a in zip(self.in_specs, args)]
            return _on_leaves(_unsqueeze, out, self.kernel(*squeezed))

        to_spec = functools.partial(
            jax.tree.map, lambda s: PartitionSpec(*s), is_leaf=_is_spec
        )
        fn = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=to_spec(self.in_specs),
            out_specs=to_spec(out),
            check_vma=check_vma,
        )
        return strict_jit(fn)

    def read(self, device: Device, *args: Any, **options: Any) -> Reading:
        """Reads the clock for arguments given as arrays, `ShapeDtypeStruct` or `Known`.

        Raises:
          EmulationError: what `timeline.read` raises.
        """
        traced, arguments = self.trace(args)
        return timeline.read(traced, arguments, self.mesh, device, **options)

    def read_bands(
        self, sheet: Sheet, *args: Any, bands: Sequence[str] = BANDS
    ) -> dict[str, timeline.Reading]:
        """Reads the clock under each band of a datasheet: equal to `read` of each, but in one pass.

        Raises:
          EmulationError: what `timeline.read` raises.
        """
        traced, arguments = self.trace(args)
        devices = [sheet.at(band) for band in bands]
        clocks = timeline.read_bands(traced, arguments, self.mesh, devices)
        return dict(zip(bands, clocks, strict=True))

    def memory(self, device: Device, *args: Any) -> memory.Peaks:
        """Peak live bytes per memory space of one core.

        Raises:
          OutOfMemory: a space's peak exceeds the device's capacity.
        """
        return memory.peaks(self.trace(args)[0], device)

    def trace(self, args: tuple[Any, ...]) -> tuple[jx.Body, list[Any]]:
        """The kernel's jaxpr on one core, kept for the next reading, and the known arguments."""
        avals, arguments, tree = self._per_core(args)
        key = (precision.is_exact(), tree, *((a.shape, a.dtype) for a in avals))
        if key not in self._traced:
            kernel = self.kernel
            fn = lambda *xs: kernel(*jax.tree.unflatten(tree, xs))  # noqa: E731
            self._traced[key] = jx.trace(fn, avals, self.mesh)
        return self._traced[key], arguments

    @functools.cached_property
    def _traced(self) -> dict[Any, jx.Body]:
        return {}

    def _per_core(self, args: tuple[Any, ...]) -> tuple[list[Any], list[Any], Any]:
        """Abstract value and known value of every argument on one core, and their tree."""
        if len(args) != len(self.in_specs):
            raise TypeError(f"{len(args)} arguments for {len(self.in_specs)} in_specs")
        leaves, tree = jax.tree.flatten(args, is_leaf=lambda x: isinstance(x, Known))
        specs = [
            s
            for spec, arg in zip(self.in_specs, args, strict=True)
            for s in _broadcast_spec(spec, arg)
        ]
        avals, arguments = [], []
        for leaf, spec in zip(leaves, specs, strict=True):
            value = _unwrap(leaf)
            if not hasattr(value, "shape"):
                value = np.asarray(value)
            shape = tuple(n for i, n in enumerate(value.shape) if not _split(spec, i))
            avals.append(
                jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(value.dtype))
            )
            arguments.append(
                self._known(value, spec) if isinstance(leaf, Known) else None
            )
        return avals, arguments, tree

    def _known(self, value: Any, spec: Spec) -> np.ndarray:
        """A known argument as `[*mesh, *shape]`, mesh dimensions of full size or 1."""
        value = np.asarray(
            value, jax.dtypes.canonicalize_dtype(np.asarray(value).dtype)
        )
        split = [spec.index(a) if a in spec else None for a in self.mesh]
        own = [i for i in range(value.ndim) if not _split(spec, i)]
        moved = np.transpose(value, [i for i in split if i is not None] + own)
        sizes = [1 if i is None else value.shape[i] for i in split]
        return moved.reshape(*sizes, *(value.shape[i] for i in own))


def _unwrap(x: Any) -> Any:
    is_known = lambda leaf: isinstance(leaf, Known)  # noqa: E731
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf.value) if is_known(leaf) else leaf,
        x,
        is_leaf=is_known,
    )


def _is_spec(x: Any) -> bool:
    return isinstance(x, tuple) and all(a is None or isinstance(a, str) for a in x)


def _split(spec: Spec, dim: int) -> bool:
    return dim < len(spec) and spec[dim] is not None


def _axis_of(spec: Any, axis: str, outer: list[str]) -> Any:
    """The dimension that holds `axis` once the dimensions of the outer axes are gone."""

    def one(s: Spec) -> int | None:
        if axis not in s:
            return None
        at = s.index(axis)
        return at - sum(a in outer for a in s[:at] if a is not None)

    return jax.tree.map(one, spec, is_leaf=_is_spec)


def _broadcast_spec(spec: Any, arg: Any) -> list[Spec]:
    is_known = lambda leaf: isinstance(leaf, Known)  # noqa: E731
    if _is_spec(spec):
        return [spec] * len(jax.tree.leaves(arg, is_leaf=is_known))
    specs, tree = jax.tree.flatten(spec, is_leaf=_is_spec)
    parts = tree.flatten_up_to(arg)
    return [
        s
        for s, part in zip(specs, parts, strict=True)
        for s in _broadcast_spec(s, part)
    ]


def _on_leaves(fn: Callable[[Any, Spec], Any], spec: Any, arg: Any) -> Any:
    leaves, tree = jax.tree.flatten(arg)
    return tree.unflatten(
        [fn(x, s) for x, s in zip(leaves, _broadcast_spec(spec, arg))]
    )


def _squeeze(x: Any, spec: Spec) -> Any:
    return jnp.squeeze(x, tuple(i for i in range(x.ndim) if _split(spec, i)))


def _unsqueeze(x: Any, spec: Spec) -> Any:
    return jnp.expand_dims(x, tuple(i for i, a in enumerate(spec) if a is not None))
