"""Faults of programs: kernels, meshes, specs, arguments, machines, exchanges over the mesh."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from emu import Known, Program
from emu.trainium import (
    TRN2,
    TRN2_48XLARGE,
    TRN3,
    TRN3_GEN2,
    all_gather,
    all_reduce,
    chip_all_gather,
    chip_all_reduce,
    chip_all_to_all,
    chip_broadcast,
    dma_store,
    hbm,
    on_system,
    reduce_scatter,
    send,
    send_next,
    with_cores,
)
from emu.wse import WSE3
from tests.faults.fault import Fault, Faults, Kernel, array, load

PLAIN = array(128, 64)
DEVICE = TRN2.at()


def store(x: jax.Array) -> jax.Array:
    return dma_store(load(x))


def made(kernel: Any = store, mesh: Any = None, in_specs: Any = ((),), **others: Any):
    """Makes a program."""
    sizes = {"core": 1} if mesh is None else mesh
    return lambda: Program(kernel, sizes, in_specs, **others)


def of_axis(size: Any):
    return made(mesh={"core": size})


def given(*arguments: Any, kernel: Kernel = store, **how: Any):
    """Reads a program of these arguments; its specs are `()` for each of the kernel's."""
    specs = how.pop("specs", ((),))
    mesh = how.pop("mesh", {"core": 2})
    device = how.pop("device", DEVICE)
    return lambda: Program(kernel, mesh, specs).read(device, *arguments, **how)


def runs(*arguments: Any, **how: Any):
    specs = how.pop("specs", ((),))
    return lambda: Program(store, {"core": 2}, specs).run(*arguments, **how)


def exchanges(kernel: Kernel, device: Any = None, **mesh: int):
    """Reads a kernel that exchanges an HBM buffer along an axis."""
    sizes = mesh or {"core": 2}
    machine = with_cores(TRN2, 2).at() if device is None else device
    program = Program(kernel, sizes, ((),))
    return lambda: program.read(machine, PLAIN)


def like(x: jax.Array) -> jax.Array:
    return hbm(*x.shape, dtype=x.dtype)


RACK = on_system(TRN3, TRN3_GEN2).at()
FAULTS: Faults = {
    # --- programs ---
    "no kernel": Fault(made(None), "kernel is None, must be a function"),
    "a name for a kernel": Fault(made("gemm"), "kernel is 'gemm', must be a function"),
    "a mesh by number": Fault(made(mesh=4), "mesh is 4, must be a dictionary of axes"),
    "a mesh of names": Fault(
        made(mesh=("core",)), r"mesh is \('core',\), must be a dict"
    ),
    "an axis without a name": Fault(
        made(mesh={"": 2}), "mesh: an axis is '', must be a"
    ),
    "an axis by number": Fault(made(mesh={0: 2}), "mesh: an axis is 0, must be a name"),
    "0 cores": Fault(
        of_axis(0), "size of axis 'core' is 0, must be a whole number from 1 to 1048576"
    ),
    "-1 cores": Fault(of_axis(-1), "size of axis 'core' is -1, must be a whole number"),
    "10^9 cores": Fault(of_axis(10**9), "size of axis 'core' is 1000000000"),
    "2.0 cores": Fault(of_axis(2.0), "size of axis 'core' is 2.0"),
    "'2' cores": Fault(of_axis("2"), "size of axis 'core' is '2'"),
    "True cores": Fault(of_axis(True), "size of axis 'core' is True"),
    "no cores": Fault(of_axis(None), "size of axis 'core' is None"),
    "NaN cores": Fault(of_axis(float("nan")), "size of axis 'core' is nan"),
    "a square of cores": Fault(
        made(mesh={"row": 2048, "col": 1024}),
        "mesh: 2048 x 1024 are 2097152 cores, at most 1048576",
    ),
    "an axis that the mesh lacks": Fault(
        made(in_specs=(("chip",),)),
        r"in_specs\[0\] names axis 'chip', the mesh has core",
    ),
    "an axis twice": Fault(
        made(in_specs=(("core", "core"),)), "must name an axis once"
    ),
    "a spec without brackets": Fault(
        made(in_specs=("core",)), r"in_specs is \('core',\), must be one spec for each"
    ),
    "specs without brackets": Fault(
        made(in_specs="core"), "in_specs is 'core', must be one spec for each argument"
    ),
    "no spec": Fault(
        made(in_specs=(None,)), r"in_specs is \(None,\), must be one spec"
    ),
    "no spec of two": Fault(
        made(in_specs=((), {"x": None})),
        r"in_specs\[1\] has None, must be axes in brack",
    ),
    "a spec by number": Fault(
        made(in_specs=(0,)), r"in_specs\[0\] has 0, must be axes"
    ),
    "a spec of JAX": Fault(
        made(in_specs=({"x": PartitionSpec("core")}, ())),
        r"in_specs\[0\] has (PartitionSpec|P)\('core',?\), must be axes",
    ),
    "results over an axis that is not": Fault(
        made(out_specs=("chip",)), "out_specs names axis 'chip', the mesh has core"
    ),
    "results by number": Fault(made(out_specs=0), "out_specs has 0, must be axes"),
    # --- arguments ---
    "an argument too many": Fault(
        given(PLAIN, PLAIN), "2 arguments, must be 1, one for each of in_specs"
    ),
    "no argument": Fault(given(), "0 arguments, must be 1"),
    "a word for an array": Fault(given("x"), "argument 0 is 'x', must be an array"),
    "a class for an array": Fault(given(object()), "argument 0 is <object"),
    "a complex array": Fault(
        given(np.zeros((128, 64), np.complex64)), r"argument 0 is complex64\[128, 64\]"
    ),
    "an array of objects": Fault(
        given(np.array([None, 1])),
        r"argument 0 is object\[2\], must be of real numbers",
    ),
    "an array of words": Fault(given(np.array(["a"])), "argument 0 is <U1"),
    "a split of another size": Fault(
        given(array(3, 128, 64), specs=(("core",),)),
        r"argument 0 is float32\[3, 128, 64\]: dimension 0 must be 2, the size of axis",
    ),
    "an array of too few dimensions": Fault(
        given(array(2), specs=(("core", None),)),
        r"argument 0 is float32\[2\], its spec \('core', None\) wants 2 dimensions",
    ),
    "a number to split": Fault(
        given(1.0, specs=(("core",),)), r"argument 0 is float64\[\], its spec"
    ),
    "a dictionary of other names": Fault(
        given({"y": PLAIN}, specs=({"x": ()},), kernel=lambda given: store(given["x"])),
        "argument 0 is not of the form of its specs",
    ),
    "a half for a Known": Fault(
        given(Known(1.5)), r"argument 0 is Known\(1.5\), must hold whole numbers"
    ),
    "a word for a Known": Fault(given(Known("n")), r"argument 0 is Known\('n'\)"),
    "a ragged Known": Fault(given(Known([[1], [1, 2]])), r"argument 0 is Known\(\[\[1"),
    "a Known of another size": Fault(
        given(Known(np.arange(3)), specs=(("core",),)),
        r"argument 0 is int64\[3\]: dimension 0 must be 2",
    ),
    # --- runs ---
    "a run of a word": Fault(runs("x"), "argument 0 is 'x', must be an array"),
    "a run of two": Fault(
        runs(np.ones((128, 64)), 1.0), "2 arguments, must be 1, one for each"
    ),
    "a run of another size": Fault(
        runs(np.ones((3, 128, 64), np.float32), specs=(("core",),)),
        "dimension 0 must be 2, the size of axis 'core'",
    ),
    "a run of complex numbers": Fault(
        runs(np.ones((128, 64), np.complex64)), "argument 0 is complex64"
    ),
    # --- machines ---
    "a datasheet for a machine": Fault(
        given(PLAIN, device=TRN2),
        "device is the datasheet of Trainium2, must be at a ba",
    ),
    "a name for a machine": Fault(
        given(PLAIN, device="trn2"), "device is 'trn2', must be a machine, such as"
    ),
    "a wafer for a NeuronCore": Fault(
        given(PLAIN, device=WSE3.at()),
        "device is WSE-3, must have the instructions `trn.`",
        line=False,
    ),
    "a machine for a datasheet": Fault(
        lambda: Program(store, {"core": 1}, ((),)).read_bands(DEVICE, PLAIN),
        "sheet is Trainium2 at a band, must be the datasheet itself",
    ),
    "memory of a datasheet": Fault(
        lambda: Program(store, {"core": 1}, ((),)).memory(TRN2, PLAIN),
        "device is the datasheet of Trainium2",
    ),
    "an unknown band": Fault(
        lambda: TRN2.at("middling"), "band is 'middling', must be one of low, nominal"
    ),
    "a band by number": Fault(lambda: TRN2.at(1), "band is 1, must be one of low"),
    "an unknown band of several": Fault(
        lambda: Program(store, {"core": 1}, ((),)).read_bands(
            TRN2, PLAIN, bands=("mid",)
        ),
        "band is 'mid', must be one of low, nominal, high",
    ),
    "0 cores that run": Fault(
        lambda: with_cores(TRN2, 0), "Trainium2: cores that run is 0, .* from 1 to 8"
    ),
    "9 cores that run": Fault(lambda: with_cores(TRN2, 9), "is 9, .* from 1 to 8"),
    "1.5 cores that run": Fault(lambda: with_cores(TRN2, 1.5), "is 1.5"),
    "a system of another generation": Fault(
        lambda: on_system(TRN3, TRN2_48XLARGE), "Trainium3 has v4"
    ),
    "a system by name": Fault(
        lambda: on_system(TRN2, "trn2.48xlarge"),
        "system is 'trn2.48xlarge', must be one of",
    ),
    "a core off the mesh": Fault(
        given(PLAIN, trace_core=(5,)), "place on axis 'core' is 5, .* from 0 to 1"
    ),
    "core -1": Fault(given(PLAIN, trace_core=(-1,)), "place on axis 'core' is -1"),
    "a core by number": Fault(
        given(PLAIN, trace_core=0), "trace_core is 0, must be 1 index, of core"
    ),
    "a core of two": Fault(
        given(PLAIN, trace_core=(0, 0)), r"trace_core is \(0, 0\), must be 1 index"
    ),
    # --- exchanges ---
    "a sum along an axis that is not": Fault(
        exchanges(lambda x: all_reduce(like(x), x, axis="depth")),
        "trn.all_reduce: axis is 'depth', must be one of the program's mesh",
    ),
    "a gather along an axis by number": Fault(
        exchanges(lambda x: all_gather(hbm(256, 64), x, axis=0)),
        "trn.all_gather: axis is 0, must be a name",
    ),
    "a scatter along no axis": Fault(
        exchanges(lambda x: reduce_scatter(hbm(64, 64), x, axis=None)),
        "trn.reduce_scatter: axis is None",
    ),
    "a gather into its own shape": Fault(
        exchanges(lambda x: all_gather(like(x), x, axis="core")),
        r"trn.all_gather: destination is \[128, 64\], must be the source's",
    ),
    "a scatter of its own shape": Fault(
        exchanges(lambda x: reduce_scatter(like(x), x, axis="core")),
        r"trn.reduce_scatter: source is \[128, 64\], must be the destination's",
    ),
    "a sum over more cores than run": Fault(
        exchanges(lambda x: all_reduce(like(x), x, axis="core"), DEVICE),
        r"2 cores take part, 1 of Trainium2 run",
    ),
    "a sum over 9 cores": Fault(
        exchanges(lambda x: all_reduce(like(x), x, axis="core"), core=9),
        "trn.all_reduce: number of cores is 9, at most 8",
    ),
    "a sum of SBUF": Fault(
        exchanges(lambda x: all_reduce(like(x), load(x), axis="core")),
        "trn.all_reduce: operand 1 is in sbuf, must be in hbm",
    ),
    "a send along an axis that is not": Fault(
        exchanges(lambda x: send_next(like(x), x, axis="ring"), RACK),
        "trn.chips: axis is 'ring', must be one of the program's mesh",
    ),
    "a send along an axis of no chips": Fault(
        exchanges(
            lambda x: send(like(x), x, 1, 1, axis="core", chips=("chip",)),
            RACK,
            chip=2,
            core=2,
        ),
        "trn.chips: axis is 'core', must be one over chips: chip",
    ),
    "a send by 0.5": Fault(
        exchanges(lambda x: send(like(x), x, 0.5, 1, axis="core"), RACK),
        "trn.send: operand 2 is 0.5, must be a whole number",
    ),
    "a send that is twice live": Fault(
        exchanges(lambda x: send(like(x), x, 1, 2, axis="core"), RACK),
        "trn.send: live is 2 to 2, must be 0 or 1",
    ),
    "a send of another shape": Fault(
        exchanges(lambda x: send(hbm(128, 32), x, 1, 1, axis="core"), RACK),
        r"trn.send: .*\[128, 64\]",
    ),
    "more chips than a system has": Fault(
        exchanges(lambda x: send_next(like(x), x, axis="chip"), RACK, chip=145),
        "145 .*at most 144",
    ),
    "a gather of chips into its own shape": Fault(
        exchanges(lambda x: chip_all_gather(like(x), x, axis="chip"), RACK, chip=2),
        "trn.chip_all_gather: destination is",
    ),
    "a sum of chips into another shape": Fault(
        exchanges(lambda x: chip_all_reduce(hbm(64, 64), x, axis="chip"), RACK, chip=2),
        "trn.chip_all_reduce",
    ),
    "a broadcast from rank 2 of 2": Fault(
        exchanges(
            lambda x: chip_broadcast(like(x), x, axis="chip", root=2), RACK, chip=2
        ),
        "trn.chip_broadcast: root is 2, must be 0 to 1",
    ),
    "a broadcast from rank -1": Fault(
        exchanges(
            lambda x: chip_broadcast(like(x), x, axis="chip", root=-1), RACK, chip=2
        ),
        "root is -1",
    ),
    "a split of dimension 5": Fault(
        exchanges(
            lambda x: chip_all_to_all(like(x), x, axis="chip", split=5, join=0),
            RACK,
            chip=2,
        ),
        "trn.chip_all_to_all: split is 5",
    ),
    "a split into uneven parts": Fault(
        exchanges(
            lambda x: chip_all_to_all(like(x), x, axis="chip", split=0, join=1),
            RACK,
            chip=3,
        ),
        "trn.chip_all_to_all",
    ),
    "an exchange that only some make": Fault(
        exchanges(
            lambda x: jax.lax.cond(
                jax.lax.axis_index("core") == 0,
                lambda x: all_reduce(like(x), x, axis="core"),
                lambda x: like(x),
                x,
            )
        ),
        "trn.all_reduce: .*every core",
    ),
    "branches of different buffers": Fault(
        exchanges(
            lambda x: dma_store(
                jax.lax.cond(
                    jax.lax.axis_index("core") == 0,
                    lambda a, b: a,
                    lambda a, b: b,
                    load(x),
                    load(x),
                )
            )
        ),
        "output 0 is a different buffer in each branch",
    ),
    "a size by a traced index": Fault(
        exchanges(lambda x: hbm(jax.lax.axis_index("core") + 1, 4)),
        "trn.hbm: dimension 0 is .*, must be a whole number",
    ),
}
