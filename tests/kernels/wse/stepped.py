"""A kernel three ways: the mesh's numbers, the timeline's cycles, the stepper's both."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Known, Program
from emu.wse import WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.result import Run
from emu.wse.from_kernel import Translated, translated
from kernels.wse.decode import dealing, layout
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.layer_reference import angles, random_layer

DEVICE = WSE3.at()


@dataclasses.dataclass(frozen=True)
class ThreeWays:
    """What the three gave.

    Attributes:
      mesh, stepped: the kernel's results, leaf by leaf.
      timeline_cycles: of `Program.read`.
      run: of the stepper.
      translated: the fabric program.
    """

    mesh: list[np.ndarray]
    stepped: list[np.ndarray]
    timeline_cycles: int
    run: Run
    translated: Translated

    @property
    def same_values(self) -> bool:
        """Bit for bit, NaN where nothing was written included."""
        return len(self.mesh) == len(self.stepped) and all(
            a.dtype == b.dtype and a.tobytes() == b.tobytes()
            for a, b in zip(self.mesh, self.stepped, strict=True)
        )


def three_ways(program: Program, *args: Any, path: str = "auto") -> ThreeWays:
    mesh = program.run(*args)
    clock = program.read(DEVICE, *args)
    fabric = translated(program, DEVICE, *args)
    run = stepper.run(fabric.program, DEVICE, fabric.data(*args), path=path)
    results = fabric.results(run, *args)
    return ThreeWays(
        mesh=[np.asarray(leaf) for leaf in jax.tree.leaves(mesh)],
        stepped=[np.asarray(leaf) for leaf in jax.tree.leaves(results)],
        timeline_cycles=clock.end_ticks,
        run=run,
        translated=fabric,
    )


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Random arrays in place of shapes; what is known stays."""
    rng = np.random.default_rng(seed)

    def array(leaf: Any) -> Any:
        if isinstance(leaf, Known):
            return leaf
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / 4, leaf.dtype)

    return jax.tree.map(array, shapes, is_leaf=lambda leaf: isinstance(leaf, Known))


def layer_data(layer: LayerMap, pos: int, gap: int, seed: int = 0) -> tuple[Any, ...]:
    """Random arguments of `layer_program(layer)` for the token at `pos`."""
    rng = np.random.default_rng(seed)
    dtypes = layer.weight_dtypes()
    dealt = layout.layer_weights(random_layer(layer, seed), layer)
    weights = {name: jnp.asarray(x[0], dtypes[name]) for name, x in dealt.items()}
    shape = (1, pos, layer.kv_heads, layer.head_dim)
    k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    tiles = layout.cache_tiles(k, v, layer)
    of_cache = layer.cache_dtypes()
    cache = {name: jnp.asarray(x[0], of_cache[name]) for name, x in tiles.items()}
    token = rng.standard_normal(layer.hidden).astype(np.float32)
    cut = dealing.in_blocks(token, 0, layer.cut, layer.depth)
    residual = dealing.deal(cut, 0, layer.rows, layer.depth)
    turn = angles(layer, pos)[None]
    turns = (layout.turn_tiles(f(turn), layer)[0] for f in (np.cos, np.sin))
    at = Known(jnp.int32(pos)), Known(jnp.int32(gap))
    return jnp.asarray(residual), weights, cache, *map(jnp.asarray, turns), *at
