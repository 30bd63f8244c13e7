"""A named grid of cores: one kernel, run on all of them as nested `vmap` or under `shard_map`.

`Program` binds a kernel, written for one core, to a mesh. The same object runs it, under strict
precision, and reads its clock, so values and time are always of the same kernel.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, PartitionSpec

from emu import given, progress
from emu.annotations import PyTree
from emu.checks import arguments as checks
from emu.checks import memory, precision, rules
from emu.clock import timeline
from emu.clock.reading import Reading
from emu.datasheet import BANDS, Device, Sheet
from emu.tracing import equal_bodies, side_by_side
from emu.tracing import jaxpr as jx
from emu.tracing.changed import Change, changed, single_buffers
from emu.uncollected import uncollected

Spec = tuple[str | None, ...]

# XLA keeps float32 between bfloat16 operations unless told not to: 868 of 1,001 multiply-adds
# differ under `jit` without this.
STRICT: dict[str, Any] = {"xla_allow_excess_precision": False}

# Compiles in less than half the time what then runs several times as long.
HASTILY: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    # Those of JAX 0.10 optimize whatever they are told; JAX 0.12 has nothing of the name.
    HASTILY["xla_cpu_use_fusion_emitters"] = False
    # Without them a program is one module for LLVM, which XLA cuts into 32 to compile side by side:
    # begun anew so often, it takes more of a processor than all that is done in the parts.
    HASTILY["xla_cpu_parallel_codegen_split_count"] = 1


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

    def __post_init__(self) -> None:
        if not callable(self.kernel):
            given.refuse(f"kernel is {given.told(self.kernel)}, must be a function")
        checks.check_mesh(self.mesh)
        if checks.is_spec(self.in_specs) and self.in_specs:
            given.refuse(
                f"in_specs is {self.in_specs}, must be one spec for each argument, such as "
                f"({self.in_specs},)"
            )
        if not isinstance(self.in_specs, tuple | list):
            told = given.told(self.in_specs)
            given.refuse(f"in_specs is {told}, must be one spec for each argument")
        for number, specs in enumerate(self.in_specs):
            checks.check_specs(self.mesh, f"in_specs[{number}]", specs)
        if self.out_specs is not None:
            checks.check_specs(self.mesh, "out_specs", self.out_specs)

    def run(self, *args: Any, in_order: bool = False) -> Any:
        """Runs the kernel on real arrays, as nested `vmap` on one device.

        Args:
          *args: the kernel's arguments, by the program's specs.
          in_order: computes independent tiles one after another, from the very jaxpr that `read`
            times, instead of side by side (`emu.tracing.side_by_side`). It takes longer; results
            agree to rounding, as sums over tiles are then added in another order.

        Within a transformation of JAX's, such as `jax.grad`, the kernel becomes part of it, and
        rounds as the compiler options of that say.

        Raises:
          EmulationError: no generation of the machine can run it (`emu.checks.rules`): asked once
            for arguments of the same shapes.
        """
        body, _ = self.trace(args)
        rules.check_any(body)
        arrays = _unwrap(args)
        # Compiler options are of a whole compilation; JAX refuses them within another one.
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays)):
            return self.batched(*arrays)
        with progress.stage("compiling and running the kernel"):
            if not in_order:
                return self.compiled(*arrays)
            with side_by_side.in_order(self.mesh):
                return self.compiled(*arrays)

    def exact(self, *args: Any) -> Any:
        """Runs the kernel in float64: its floating arguments, tiles and arithmetic.

        `emu.checks.precision` finds what would stay narrower.

        Returns:
          The kernel's results as NumPy arrays, because JAX rounds float64 outside the context.

        Raises:
          NotExact: an instruction without a float64 counterpart, or a tile that stays narrower.
        """
        wide = jax.tree.map(precision.widen, _unwrap(args))
        with precision.exact(), progress.stage("compiling and running in float64"):
            body, _ = self.trace(wide)
            precision.check(body)
            results = self.compiled(*wide)
            return jax.tree.map(np.asarray, results)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The jitted program under strict precision."""
        return strict_jit(self.batched)

    @functools.cached_property
    def batched(self) -> Callable[..., Any]:
        """The kernel as nested `vmap`, one level per mesh axis."""
        mapped = self.kernel
        outer = list(self.mesh)
        while outer:
            # Innermost first: the last `vmap` around the kernel is that of the outermost axis.
            axis = outer.pop()
            mapped = jax.vmap(
                mapped,
                in_axes=tuple(_axis_of(spec, axis, outer) for spec in self.in_specs),
                out_axes=_axis_of(self._out_specs, axis, outer),
                axis_name=axis,
                axis_size=self.mesh[axis],
            )
        return mapped

    @property
    def _out_specs(self) -> Any:
        every_axis = tuple(self.mesh)
        return every_axis if self.out_specs is None else self.out_specs

    def sharded(self, check_vma: bool = True) -> Callable[..., Any]:
        """The same kernel under `shard_map` on as many real devices as the mesh has cores."""
        sizes = tuple(self.mesh.values())
        names = tuple(self.mesh)
        mesh = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))

        # `shard_map` leaves a split dimension in place, of size 1; a core's kernel has none.
        def local(*args: Any) -> Any:
            pairs = zip(self.in_specs, args, strict=True)
            squeezed = [_on_leaves(_squeeze, spec, arg) for spec, arg in pairs]
            results = self.kernel(*squeezed)
            return _on_leaves(_unsqueeze, self._out_specs, results)

        def partition_specs(specs: Any) -> Any:
            to_spec = lambda spec: PartitionSpec(*spec)  # noqa: E731
            return jax.tree.map(to_spec, specs, is_leaf=checks.is_spec)

        mapped = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=partition_specs(self.in_specs),
            out_specs=partition_specs(self._out_specs),
            check_vma=check_vma,
        )
        return strict_jit(mapped)

    def read(
        self,
        device: Device,
        *args: Any,
        check_memory: bool = True,
        as_written: bool = False,
        change: Change | None = None,
        **options: Any,
    ) -> Reading:
        """Reads the clock for arguments given as arrays, `ShapeDtypeStruct` or `Known`.

        Args:
          device: machine and band.
          *args: the kernel's arguments.
          check_memory: False times a kernel that would not fit the machine's memories.
          as_written: treats every ring of tiles as one buffer.
          change: of every instruction, the parameters that are to be others: what the kernel would
            take if it said so (`emu.report.changes` has those that advice is tried by).
          **options: see `timeline.read`.

        Raises:
          OutOfMemory: the kernel does not fit, see `memory`.
          EmulationError: what `timeline.read` raises.
        """
        checks.check_device(device)
        checks.check_core(self.mesh, options.get("trace_core"))
        with progress.stage("reading the clock"), uncollected():
            traced, arguments = self.trace(args)
            rules.check_machine(traced, device)
            if as_written:
                traced = changed(traced, single_buffers)
            if change is not None:
                traced = changed(traced, change)
            if check_memory:
                memory.peaks(traced, device)
            return timeline.read(traced, arguments, self.mesh, device, **options)

    def read_bands(
        self,
        sheet: Sheet,
        *args: Any,
        bands: Sequence[str] = BANDS,
        check_memory: bool = True,
    ) -> dict[str, timeline.Reading]:
        """Reads the clock under each band of a datasheet: equal to `read` of each, but in one pass.

        Raises:
          OutOfMemory: the kernel does not fit, see `read`.
          EmulationError: what `timeline.read` raises.
        """
        checks.check_sheet(sheet)
        devices = [sheet.at(band) for band in bands]
        with progress.stage("reading the clock under each band"), uncollected():
            traced, arguments = self.trace(args)
            rules.check_machine(traced, devices[0])
            if check_memory:
                # Bands differ in speed, not in size.
                memory.peaks(traced, devices[0])
            clocks = timeline.read_bands(traced, arguments, self.mesh, devices)
        return dict(zip(bands, clocks, strict=True))

    def memory(self, device: Device, *args: Any) -> memory.Peaks:
        """Peak live bytes per memory space of one core.

        Raises:
          OutOfMemory: a space's peak exceeds the device's capacity.
        """
        checks.check_device(device)
        with uncollected():
            body, _ = self.trace(args)
            rules.check_machine(body, device)
            return memory.peaks(body, device)

    def placed(self, *args: Any) -> list[list[tuple[int, Spec]]]:
        """Of each argument its arrays: bytes on one core, and along which axes they are dealt out.

        Known integers are left out: they are the program's, and in no memory.
        """
        found: list[list[tuple[int, Spec]]] = []
        for number, (spec, arg) in enumerate(zip(self.in_specs, args, strict=True)):
            leaves = jax.tree.leaves(arg, is_leaf=_is_known)
            specs = _argument_specs(f"argument {number}", spec, arg)
            own: list[tuple[int, Spec]] = []
            for leaf, axes in zip(leaves, specs, strict=True):
                if not isinstance(leaf, Known):
                    shape = [leaf.shape[dim] for dim in _own_dims(axes, leaf.ndim)]
                    nbytes = math.prod(shape) * jnp.dtype(leaf.dtype).itemsize
                    own.append((nbytes, axes))
            found.append(own)
        return found

    def trace(self, args: tuple[Any, ...]) -> tuple[jx.Body, list[Any]]:
        """The kernel's jaxpr on one core, kept for the next reading, and the known arguments."""
        avals, arguments, tree = self._per_core(args)
        shapes = tuple((aval.shape, aval.dtype) for aval in avals)
        # In the exact reading tiles of the same declarations are float64: another jaxpr.
        key = precision.is_exact(), tree, shapes
        if key not in self._traced:

            def of_leaves(*leaves: Any) -> Any:
                return self.kernel(*jax.tree.unflatten(tree, leaves))

            traced = jx.trace(of_leaves, avals, self.mesh)
            self._traced[key] = equal_bodies.shared(traced)
        return self._traced[key], arguments

    def on_mesh(self, args: tuple[Any, ...]) -> list[np.ndarray]:
        """What every core holds of each leaf of the arguments, `[*mesh, *shape]`.

        Dimensions of the mesh over which a leaf is not split are 1.
        """
        checks.check_count(args, self.in_specs)
        found: list[np.ndarray] = []
        for number, (spec, arg) in enumerate(zip(self.in_specs, args, strict=True)):
            specs = _argument_specs(f"argument {number}", spec, arg)
            leaves = jax.tree.leaves(_unwrap(arg))
            for leaf, of_leaf in zip(leaves, specs, strict=True):
                found.append(self._known(leaf, of_leaf))
        return found

    def results_tree(self, args: tuple[Any, ...]) -> Any:
        """The tree of the kernel's results for arguments of these shapes."""
        return jax.tree.structure(jax.eval_shape(self.batched, *_unwrap(args)))

    @functools.cached_property
    def _traced(self) -> dict[Any, jx.Body]:
        return {}

    def _per_core(self, args: tuple[Any, ...]) -> tuple[list[Any], list[Any], Any]:
        """Abstract value and known value of every argument on one core, and their tree."""
        checks.check_count(args, self.in_specs)
        leaves, tree = jax.tree.flatten(args, is_leaf=_is_known)
        names: list[str] = []
        specs: list[Spec] = []
        for number, (spec, arg) in enumerate(zip(self.in_specs, args, strict=True)):
            of_leaves = _argument_specs(f"argument {number}", spec, arg)
            names += [f"argument {number}"] * len(of_leaves)
            specs += of_leaves
        avals: list[jax.ShapeDtypeStruct] = []
        arguments: list[np.ndarray | None] = []
        for name, leaf, spec in zip(names, leaves, specs, strict=True):
            if isinstance(leaf, Known):
                value = checks.checked_known(name, leaf.value)
            else:
                value = checks.checked_array(name, leaf)
            checks.check_split(self.mesh, name, value, spec)
            shape = [value.shape[dim] for dim in _own_dims(spec, len(value.shape))]
            # NumPy's 64-bit numbers become JAX's 32-bit ones in a run; the clock would else move
            # twice their bytes.
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            avals.append(jax.ShapeDtypeStruct(tuple(shape), dtype))
            arguments.append(self._known(value, spec) if _is_known(leaf) else None)
        return avals, arguments, tree

    def _known(self, value: Any, spec: Spec) -> np.ndarray:
        """A known argument as `[*mesh, *shape]`, mesh dimensions of full size or 1.

        Example: on a mesh of `y` 3 and `x` 4, a table `[8, 4]` of spec `(None, "x")` becomes
        `[1, 4, 8]`: every row of the mesh has the same, every column its own 8 numbers.
        """
        value = np.asarray(value)
        dtype = jax.dtypes.canonicalize_dtype(value.dtype)
        split = [spec.index(axis) for axis in self.mesh if axis in spec]
        own = _own_dims(spec, value.ndim)
        moved = np.transpose(value.astype(dtype, copy=False), [*split, *own])
        sizes = list(moved.shape)
        # Outermost first: all dimensions before `place` then stand already, so each 1 lands in its
        # own.
        for place, axis in enumerate(self.mesh):
            if axis not in spec:
                sizes.insert(place, 1)
        return moved.reshape(sizes)


def _is_known(leaf: Any) -> bool:
    return isinstance(leaf, Known)


def _unwrap(tree: PyTree) -> PyTree:
    """The arrays inside `Known`, and what else there is."""

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, Known):
            return leaf
        # NumPy's, as each `jnp.asarray` of a table would be compiled by itself.
        array = np.asarray(leaf.value)
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

    return jax.tree.map(value, tree, is_leaf=_is_known)


# --- specs ---


def _split_dims(spec: Spec) -> tuple[int, ...]:
    """The dimensions that are split over an axis of the mesh."""
    return tuple(dim for dim, axis in enumerate(spec) if axis is not None)


def _own_dims(spec: Spec, rank: int) -> list[int]:
    """The dimensions that every core has whole; a spec may be shorter than the rank."""
    split = _split_dims(spec)
    return [dim for dim in range(rank) if dim not in split]


def _axis_of(spec: Any, axis: str, outer: list[str]) -> Any:
    """The dimension that holds `axis` once the dimensions of the outer axes are gone.

    Example: of spec `("y", None, "x")` the outer axis `y` maps dimension 0, so what is left has
    `x` at dimension 1.
    """

    def one(spec: Spec) -> int | None:
        if axis not in spec:
            return None
        dim = spec.index(axis)
        # `vmap` of an outer axis takes its dimension away before this axis is mapped.
        gone = sum(before in outer for before in spec[:dim])
        return dim - gone

    return jax.tree.map(one, spec, is_leaf=checks.is_spec)


def _argument_specs(name: str, spec: Any, arg: PyTree) -> list[Spec]:
    """`_broadcast_spec`, or an error that names the argument."""
    try:
        return _broadcast_spec(spec, arg)
    except ValueError as error:
        reason, *_ = str(error).splitlines()
        given.refuse(f"{name} is not of the form of its specs: {reason.rstrip('.')}")


def _broadcast_spec(spec: Any, arg: PyTree) -> list[Spec]:
    """The spec of every leaf of an argument; that of a subtree holds for all its leaves."""
    if checks.is_spec(spec):
        leaves = jax.tree.leaves(arg, is_leaf=_is_known)
        return [spec] * len(leaves)
    parts, tree = jax.tree.flatten(spec, is_leaf=checks.is_spec)
    subtrees = tree.flatten_up_to(arg)
    specs: list[Spec] = []
    for part, subtree in zip(parts, subtrees, strict=True):
        specs += _broadcast_spec(part, subtree)
    return specs


def _on_leaves(fn: Callable[[Any, Spec], Any], spec: Any, arg: PyTree) -> PyTree:
    leaves, tree = jax.tree.flatten(arg)
    pairs = zip(leaves, _broadcast_spec(spec, arg), strict=True)
    return tree.unflatten([fn(leaf, own) for leaf, own in pairs])


def _squeeze(x: jax.Array, spec: Spec) -> jax.Array:
    return jnp.squeeze(x, _split_dims(spec))


def _unsqueeze(x: jax.Array, spec: Spec) -> jax.Array:
    return jnp.expand_dims(x, _split_dims(spec))
