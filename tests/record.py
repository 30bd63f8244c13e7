"""Every number of the project in one file, to be compared before and after a change of its form.

A developer runs it by hand, once per Python/JAX pair, because it takes many minutes:

    python -m tests.record before.json                  # on the commit to compare with
    python -m tests.record after.json --against before.json

Recorded are ticks, counts and value hashes of every catalogue kernel on every generation and band,
of ring attention under every placement and scheme, of every fabric program, the predictions of the
calibration, and what the quickstart writes. A number that differs is printed and the exit code is
1.
"""

import argparse
import hashlib
import inspect
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import BANDS, EmulationError
from emu.clock.reading import Reading
from emu.trainium.datasheets import TRN1, TRN2, TRN3, TRN3_GEN2, on_system
from emu.wse import WSE2, WSE3
from emu.wse.fabric import stepper
from kernels.trainium.catalogue import TRAINIUM_KERNELS
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent_attention import LatentAttention
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

Record = dict[str, Any]

# Small enough to run values on two cores; the clock is read at the catalogue's own sizes.
SMALL = {"tokens": 512, "rows": 256, "heads": 4, "m": 1024, "k": 1024, "n": 1024}

QUICKSTARTS = {
    "tiny 1 chip": "--model tiny --chips 1",
    "tiny 4 chips": "--model tiny --chips 4",
    "tiny 7 chips": "--model tiny --chips 7",
    "tiny zigzag": "--model tiny --placement zigzag",
    "tiny striped": "--model tiny --placement striped --ignore-eos",
    "tiny auto": "--model tiny --placement auto",
    "tiny 8 cores": "--model tiny --chips 2 --cores 8 --dtype bfloat16",
    "smollm2": "--model smollm2",
    "smollm2 zigzag": "--model smollm2 --chips 2 --placement zigzag --tokens 4",
    "smollm2 8 cores": "--model smollm2 --cores 8 --dtype bfloat16 --tokens 3",
}

# Of the machine that recorded, not of the program.
UNCOMPARED = ("wall", "rss")


def main() -> int:
    """Records, and compares where another record is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=pathlib.Path, help="JSON to write")
    parser.add_argument("--against", type=pathlib.Path, help="JSON of an earlier run")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    record: Record = {}
    for part in args.only:
        started = time.monotonic()
        print(f"{part} ...", flush=True)
        for key, value in PARTS[part]():
            record[f"{part}: {key}"] = value
        print(
            f"{part}: {len(record)} figures so far, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        args.file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if args.against is None:
        return 0
    before = json.loads(args.against.read_text())
    parts = tuple(f"{part}: " for part in args.only)
    return compare({k: v for k, v in before.items() if k.startswith(parts)}, record)


def compare(before: Record, after: Record) -> int:
    """Prints every difference; 1 if there is one."""
    after = json.loads(json.dumps(after))
    different = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    for key in different:
        print(
            f"DIFFERS {key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        )
    print(
        f"{len(before)} figures before, {len(after)} after, {len(different)} different"
    )
    return 1 if different else 0


def digest(values: Any) -> str:
    """A hash over shapes, dtypes and bits of a pytree of arrays."""
    made = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        array = np.asarray(leaf)
        made.update(f"{array.shape}{array.dtype}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()[:16]


def figures(clock: Reading) -> Record:
    """What is recorded of one reading."""
    sums = {
        f"{kind} {name}": int(n) for (kind, name), n in sorted(clock.tally.sums.items())
    }
    spent = {f"{e} {w}": int(np.sum(t)) for (e, w), t in sorted(clock.spent.items())}
    return {
        "ticks": clock.end_ticks,
        "issued": clock.issued,
        "sums": sums,
        "spent": spent,
    }


def random_array(like: jax.ShapeDtypeStruct, seed: int) -> jax.Array:
    """Normal numbers, or MX scales of about 1 (the exponent's bias is 127)."""
    draw = np.random.default_rng(seed)
    if like.dtype == jnp.uint8:
        return jnp.asarray(draw.integers(125, 130, like.shape), jnp.uint8)
    return jnp.asarray(draw.standard_normal(like.shape, np.float32)).astype(like.dtype)


# --- parts ---


def kernels() -> Iterator[tuple[str, Any]]:
    for name, entry in TRAINIUM_KERNELS.items():
        program, arguments = entry.build()
        for sheet in (TRN1, TRN2, TRN3):
            for band in BANDS:
                yield (
                    f"{name} {sheet.name} {band}",
                    _read(program, sheet.at(band), arguments),
                )
        written = program.read(TRN3.at(), *arguments, as_written=True)
        yield f"{name} as written", written.end_ticks
        yield f"{name} memory", program.memory(TRN3.at(), *arguments)
        small, shapes = entry.build(
            **{k: SMALL.get(k, v) for k, v in entry.sizes.items()}
        )
        values = small.run(*(random_array(x, seed) for seed, x in enumerate(shapes)))
        yield f"{name} values", digest(values)


def _read(program: Any, device: Any, arguments: Any) -> Any:
    try:
        return figures(program.read(device, *arguments))
    except EmulationError as e:
        return type(e).__name__


def rings() -> Iterator[tuple[str, Any]]:
    def window(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (k <= q) & ((q - k < 200) | (k < 4))

    def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
        return k <= q

    heads = {"heads": 4, "kv_heads": 2, "head_dim": 64}
    device = on_system(TRN3, TRN3_GEN2)
    draw = [
        np.random.default_rng(i).standard_normal((700, n, 64), np.float32)
        for i, n in enumerate((4, 2, 2))
    ]
    cases: dict[str, Record] = {
        **{
            p: {"placement": p}
            for p in ("contiguous", "zigzag", "striped", "tile-cyclic", "auto")
        },
        **{s: {"scheme": s} for s in ("all-gather", "ulysses")},
        "bf16-o": {"recipe": "bf16-o", "dtype": jnp.bfloat16},
        "mxfp8": {"dtype": "mxfp8"},
        "static": {"static_program": True},
    }
    for mask_name, mask in (("causal", causal), ("window", window)):
        for case, options in cases.items():
            key = f"{mask_name} {case}"
            try:
                ring = ContextAttention(
                    mask=mask, tokens=700, ranks=4, **heads, **options
                )
                yield f"{key} values", digest(ring.run(*draw))
                for band in BANDS:
                    yield f"{key} {band}", figures(ring.read(device.at(band)))
            except (EmulationError, ValueError) as e:
                yield f"{key} refused", type(e).__name__
    large = ContextAttention(
        mask=causal,
        tokens=65536,
        ranks=16,
        dtype=jnp.bfloat16,
        heads=8,
        kv_heads=1,
        head_dim=128,
    )
    yield "16 ranks", figures(large.read(device.at()))
    attention = ContextAttention(
        mask=causal,
        tokens=2048,
        ranks=4,
        heads=8,
        kv_heads=8,
        head_dim=192,
        parts=(128, 64),
        value_dim=128,
        dtype=jnp.bfloat16,
    )
    latent = LatentAttention(attention=attention, latent=512)
    yield "latent", figures(latent.read(device.at()))


def fabric() -> Iterator[tuple[str, Any]]:
    for name, function in FABRIC_PROGRAMS.items():
        takes_device = "device" in inspect.signature(function).parameters
        for sheet in (WSE2, WSE3):
            for band in BANDS:
                device = sheet.at(band)
                key = f"{name} {sheet.name} {band}"
                try:
                    program = function(device=device) if takes_device else function()
                    run = stepper.run(program, device, _data(program), links=True)
                except EmulationError as e:
                    yield key, type(e).__name__
                    continue
                yield f"{key} cycles", [run.cycles, run.path]
                yield f"{key} ends, links", digest([run.ends, run.links])
                yield f"{key} values", digest(run.values)


def _data(program: Any) -> Record:
    """Random contents of every buffer."""
    data = {}
    for seed, (name, buffer) in enumerate(program.buffers.items()):
        shape = (*program.shape, buffer.elements)
        data[name] = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return data


def calibration() -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        _experiment("calibration", "--out", folder)
        lines = pathlib.Path(folder, "calibration.csv").read_text().splitlines()
    for number, line in enumerate(lines):
        yield f"{number:03}", line


def quickstart() -> Iterator[tuple[str, Any]]:
    for name, options in QUICKSTARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            _experiment("quickstart", *options.split(), "--out", folder)
            written = json.loads(pathlib.Path(folder, "quickstart.json").read_text())
        yield from _flat(name, written)


def _experiment(name: str, *options: str) -> None:
    command = [sys.executable, "-m", f"experiments.{name}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested JSON."""
    if any(word in key for word in UNCOMPARED):
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key} {name}", inner)
    else:
        yield key, value


PARTS: dict[str, Callable[[], Iterator[tuple[str, Any]]]] = {
    "kernels": kernels,
    "rings": rings,
    "fabric": fabric,
    "calibration": calibration,
    "quickstart": quickstart,
}

if __name__ == "__main__":
    raise SystemExit(main())
