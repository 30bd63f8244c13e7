"""The work that is timed beside the peers: programs, and the clock of each as a process of its own.

Nothing is imported before it is needed: the whole process is what is timed.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
from typing import Any

from emu.early_end import child_process

GEMM_SIZE, TOKENS = 2048, 4096
GEMM_VARIANT = "block_bm8_bn2_row_loads"  # the fastest by the clock
LAYER_AXIS = "ring"


@dataclasses.dataclass(frozen=True)
class Timed:
    """One piece of work read by the clock in a process of its own.

    Attributes:
      seconds: the predicted time.
      cycles: of the engine that multiplies, in the predicted time.
      cpu_s: user and system time of the whole process.
      peak_mb: its largest resident set, MB.
    """

    seconds: float
    cycles: float
    cpu_s: float
    peak_mb: float


def timed(work: str) -> Timed:
    """Reads the clock of one of `WORK` in a new process and measures that process.

    Raises:
      RuntimeError: the process failed.
    """
    # It looks for modules where this process does, and not in the working directory besides.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from experiments.bench.work import main; main({work!r})"
    )
    with child_process([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        # Of this child alone, where `getrusage` sums over all children so far. `returncode` tells
        # Popen not to wait again.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"experiments.bench: the process that reads {work} failed")
    return Timed(**json.loads(said), cpu_s=used.ru_utime + used.ru_stime)


def main(work: str) -> None:
    """Reads one clock and prints seconds, cycles and this process' peak memory as JSON."""
    print(json.dumps(WORK[work]() | {"peak_mb": peak_bytes() / 1e6}))


def peak_bytes() -> int:
    """The largest resident set of this process.

    On Linux from its own status: `getrusage` counts the process it was started from as well.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


# --- programs ---


def gemm_program(size: int = GEMM_SIZE) -> tuple[Any, tuple[Any, ...]]:
    """A square bfloat16 GEMM on one NeuronCore, and the shapes of its operands."""
    import jax

    from emu import Program
    from kernels.trainium.gemm.ladder import gemm

    operand = jax.ShapeDtypeStruct((size, size), jax.numpy.bfloat16)
    kernel = functools.partial(gemm, variant=GEMM_VARIANT)
    return Program(kernel, {"core": 1}, ((), ())), (operand, operand)


def layer_config() -> Any:
    """Llama-3.1-8B cut to one layer, its vocabulary to what the layout needs at least."""
    from models.catalogue import LLAMA_3_1_8B

    return dataclasses.replace(LLAMA_3_1_8B, num_hidden_layers=1, vocab_size=512)


def layer_program(
    weights: Any, tokens: int = TOKENS
) -> tuple[Any, tuple[Any, ...], Any]:
    """The layer's prefill on one NeuronCore.

    Args:
      weights: canonical pytree of `layer_config`'s model, or of `ShapeDtypeStruct`.
      tokens: of the prompt.

    Returns:
      The program, its arguments (all data but the weights as shapes), and the ring of one.
    """
    import jax
    import jax.numpy as jnp

    from emu import Program
    from emu.trainium.datasheets import TRN3
    from kernels.trainium.layer.form import Positions
    from kernels.trainium.layer.layer import layer
    from kernels.trainium.layer.qkv import qkv
    from kernels.trainium.layer.ring import layer_ring
    from models.machines.pack import pack_weights
    from models.machines.prompt_layout import layer_tiling
    from models.machines.tensor_parallel import divide_model

    config, dtype = layer_config(), jnp.dtype(jnp.bfloat16)
    shares = divide_model(config, 1)
    tiling = layer_tiling(config, shares, tokens, dtype, chip=TRN3)
    (run,) = pack_weights(config, weights, tiling, shares)["layers"]
    layer_weights = jax.tree.map(_first_layer, run)
    ring = layer_ring(tiling, tokens=tokens, chips=1, axis=LAYER_AXIS)

    def kernel(x: Any, cos: Any, sin: Any, weights: Any, work: Any, masks: Any) -> Any:
        positions = Positions(cos, sin)
        project = functools.partial(qkv, positions=positions, tiling=tiling)
        attend = ring.attend(work, masks)
        return layer(x, weights, project, attend, tiling)

    split = (LAYER_AXIS,)
    by_tile = (1, tiling.blocks, tiling.tiles, tiling.rows)
    hidden = jax.ShapeDtypeStruct((*by_tile, tiling.hidden_padded), dtype)
    turns = jax.ShapeDtypeStruct((*by_tile, tiling.head_dim // 2), jnp.float32)
    program = Program(kernel, {LAYER_AXIS: 1}, (split, split, split, (), split, ()))
    span = tiling.kv_tiles * tiling.rows
    masks = jax.ShapeDtypeStruct((1, tiling.rows, span), jnp.uint8)
    return (
        program,
        (hidden, turns, turns, layer_weights, ring.known(with_masks=False), masks),
        ring,
    )


def _first_layer(weight: Any) -> Any:
    import jax

    if isinstance(weight, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(weight.shape[1:], weight.dtype)
    return weight[0]


def structs(config: Any) -> Any:
    """Shapes of a model's bfloat16 weights."""
    import jax

    from models.plain.weights import weight_shapes

    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jax.numpy.bfloat16),
        weight_shapes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )


# --- clocks ---


def _tensor(clock: Any) -> dict[str, float]:
    per_cycle = clock.device.ticks_per_cycle["tensor"]
    return {"seconds": clock.seconds, "cycles": clock.end_ticks / per_cycle}


def _gemm() -> dict[str, float]:
    from emu.trainium.datasheets import TRN3

    program, operands = gemm_program()
    return _tensor(program.read(TRN3.at(), *operands))


def _layer() -> dict[str, float]:
    from emu.trainium.datasheets import TRN3

    program, arguments, _ = layer_program(structs(layer_config()))
    return _tensor(program.read(TRN3.at(), *arguments))


def _prefill() -> dict[str, float]:
    from emu.trainium.datasheets import TRN3
    from models.catalogue import LLAMA_3_1_8B
    from models.machines.prefill import Prefill

    weights = structs(LLAMA_3_1_8B)
    prefill = Prefill(LLAMA_3_1_8B, weights, tokens=TOKENS, chips=1, dtype="bfloat16")
    return _tensor(prefill.read(TRN3.at()).clock)


def _decode() -> dict[str, float]:
    from emu.wse.datasheets.datasheet import WSE3
    from kernels.wse.decode.plan import plan_wafer
    from kernels.wse.decode.token import TokenClock
    from models.catalogue import LLAMA_3_1_8B

    device = WSE3.at()
    step = TokenClock(
        plan_wafer(LLAMA_3_1_8B, TOKENS + 1, "bfloat16", device), device
    ).read(TOKENS)
    return {"seconds": step.seconds, "cycles": step.cycles}


WORK = {"gemm": _gemm, "layer": _layer, "prefill": _prefill, "decode": _decode}
