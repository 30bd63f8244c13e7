"""Faults of NKI kernels: what the vendor's compiler refuses, refused in its terms."""

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from emu.trainium import TRN1, TRN2, TRN3, TRN3_GEN2, on_system
from emu.trainium.nki import load, terms
from emu.trainium.nki.program import program
from emu.trainium.nki.record import record
from tests.faults.fault import Fault, Faults

SHEETS = {"trn1": TRN1, "trn2": TRN2, "trn3": on_system(TRN3, TRN3_GEN2)}
FILE = "kernel_under_test.py"
OLD = """\
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np
"""
NEW = """\
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
"""


def _kernel(
    usual: str, device: str, body: str, shapes: tuple[tuple[int, ...], ...], grid: int
) -> Callable[[], Any]:
    """Records and reads a kernel `k(x, ...)` whose body stands from line 2 of its file on."""
    names = [chr(ord("x") + number) for number in range(len(shapes))]
    text = f"def k({', '.join(names)}):\n" + textwrap.indent(
        textwrap.dedent(body).strip("\n"), "    "
    )

    def make() -> None:
        module = load.load_text(text, file=FILE, usual=usual)
        arguments = [np.zeros(shape, np.float32) for shape in shapes]
        name = "neuronxcc.nki" if usual == OLD else "nki"
        recorded = record(
            load.kernel(module, "k"),
            arguments,
            api=name,
            device=device,
            grid=(grid,) if grid else (),
        )
        timed = program(recorded)
        machine = SHEETS[device].at()
        terms.check(recorded, timed, machine, *arguments)
        timed.memory(machine, *arguments)

    return make


def old(
    says: str,
    body: str,
    *shapes: tuple[int, ...],
    line: int | None = None,
    device: str = "trn1",
) -> Fault:
    """A fault of a kernel for `neuronxcc.nki`; `x`, `y` and `z` are HBM tensors in float32."""
    return _fault(OLD, device, says, body, shapes, line, 0)


def new(
    says: str,
    body: str,
    *shapes: tuple[int, ...],
    line: int | None = None,
    device: str = "trn2",
    grid: int = 0,
) -> Fault:
    """A fault of a kernel for `nki`."""
    return _fault(NEW, device, says, body, shapes, line, grid)


def _fault(
    usual: str,
    device: str,
    says: str,
    body: str,
    shapes: tuple[tuple[int, ...], ...],
    line: int | None,
    grid: int,
) -> Fault:
    """By default the fault is in the body's last line but one, before `return`."""
    last = len(textwrap.dedent(body).strip("\n").splitlines())
    where = 1 + (last if line is None else line)
    said = f"{says}.*\\({FILE}:{where}\\)$"
    made = _kernel(usual, device, body, shapes or ((128, 512),), grid)
    # The line is the kernel's, and part of what must be said.
    return Fault(made, said, line=False)


# Opens of both generations: tiles that the bodies below use.
TILES = """
a = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
b = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
w = nl.ndarray((128, 128), nl.float32, buffer=nl.sbuf)
s = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
nisa.dma_copy(dst=a, src=x)
nisa.dma_copy(dst=w, src=x[:, 0:128])
"""


def quantize(
    columns: int = 512, dtype: str = "bfloat16", result: str = "float8_e4m3fn_x4"
) -> str:
    """A body that quantizes a tile of so many columns into 128 of packed elements."""
    return f"""
        a = nl.ndarray((128, {columns}), nl.{dtype}, buffer=nl.sbuf)
        q = nl.ndarray((128, 128), nl.{result}, buffer=nl.sbuf)
        s = nl.ndarray((128, 128), nl.uint8, buffer=nl.sbuf)
        nisa.memset(dst=a, value=1.0)
        nisa.quantize_mx(dst=q, src=a, dst_scale=s)
        """


FAULTS: Faults = {
    # --- the older generation ---
    "a tile of 256 partitions is loaded": old(
        r"nki\.language\.load: .*256.* at most 128 partitions .*pmax",
        "nl.load(x)",
        (256, 64),
    ),
    "a tile of 256 partitions is declared": old(
        r"nki\.language\.ndarray: partition dimension is 256, at most 128 .*pmax",
        "nl.ndarray((nl.par_dim(256), 64), nl.float32, buffer=nl.sbuf)",
    ),
    "a stationary tile of 256 columns": old(
        r"nki\.isa\.nc_matmul: stationary free size is 256, at most 128 .*stationary_fmax",
        """
        a = nl.load(x)
        nisa.nc_matmul(a[:, 0:256], a)
        """,
    ),
    "a moving tile of 1,024 columns": old(
        r"nki\.isa\.nc_matmul: moving free size is 1024, at most 512 .*moving_fmax",
        """
        a = nl.load(x)
        nisa.nc_matmul(a[:, 0:128], a)
        """,
        (128, 1024),
    ),
    "a contraction over 128 and 64 partitions": old(
        r"nki\.isa\.nc_matmul: stationary has 128 partitions and moving 64.*contraction",
        """
        a = nl.load(x)
        b = nl.load(x[0:64])
        nisa.nc_matmul(a[:, 0:128], b)
        """,
    ),
    "a matmul of what is in HBM": old(
        r"nki\.isa\.nc_matmul: moving is in HBM, must be in SBUF.*load",
        """
        a = nl.load(x)
        nisa.nc_matmul(a[:, 0:128], x)
        """,
    ),
    "a matmul of integers": old(
        r"nki\.isa\.nc_matmul: moving is int32, must be a float",
        """
        a = nl.load(x)
        b = nl.copy(a, dtype=nl.int32)
        nisa.nc_matmul(a[:, 0:128], b)
        """,
    ),
    "a store to a tile": old(
        r"nki\.language\.store: dst is in SBUF, must be in HBM",
        """
        a = nl.load(x)
        nl.store(a, value=a)
        """,
    ),
    "a load from a tile": old(
        r"nki\.language\.load: src is in SBUF, must be in HBM",
        """
        a = nl.load(x)
        nl.load(a)
        """,
    ),
    "a store of another shape": old(
        r"nki\.language\.store: src is \[128, 512\], dst \[128, 256\]: must",
        """
        a = nl.load(x)
        nl.store(x[:, 0:256], value=a)
        """,
    ),
    "a slice that leaves the tensor": old(
        r"dimension 1 of x has 512 elements.*from 256 to 767",
        "nl.load(x[:, nl.ds(256, 512)])",
    ),
    "an index that leaves the tensor": old(
        r"dimension 0 of x has 300 elements.*from 256 to 383.*mask=",
        """
        i_p = nl.arange(128)[:, None]
        i_f = nl.arange(512)[None, :]
        nl.load(x[256 + i_p, i_f])
        """,
        (300, 512),
    ),
    "par_dim at the free dimension": old(
        r"nki\.language\.ndarray: partition dimension is 512, .*put nl\.par_dim where the part",
        "nl.ndarray((128, nl.par_dim(512)), nl.float32, buffer=nl.sbuf)",
    ),
    "par_dim twice": old(
        r"nki\.language\.ndarray: shape has 2 par_dim, must have one",
        "nl.ndarray((nl.par_dim(4), nl.par_dim(128), 512), nl.float32, buffer=nl.sbuf)",
    ),
    "a function that does not exist": old(
        r"nki\.language\.layer_norm: this function is not supported",
        """
        a = nl.load(x)
        nl.layer_norm(a)
        """,
    ),
    "an instruction that does not exist": old(
        r"nki\.isa\.tensor_cumsum: this function is not supported",
        """
        a = nl.load(x)
        nisa.tensor_cumsum(a)
        """,
    ),
    "an operator that does not exist": old(
        r"nki\.isa\.tensor_tensor: op is hypot, must be one of .*add",
        """
        a = nl.load(x)
        nisa.tensor_tensor(a, a, op=np.hypot)
        """,
    ),
    "an operator that is a number": old(
        r"nki\.isa\.tensor_reduce: op is 3, must be an operator",
        """
        a = nl.load(x)
        nisa.tensor_reduce(3, a, axis=[1])
        """,
    ),
    "an activation function that does not exist": old(
        r"nki\.isa\.activation: op is arccosh, must be one of .*exp",
        """
        a = nl.load(x)
        nisa.activation(np.arccosh, a)
        """,
    ),
    "an activation's bias as wide as its data": old(
        r"nki\.isa\.activation: bias is \[128, 512\], must be one value a partition, \[128, 1\]",
        """
        a = nl.load(x)
        nisa.activation(np.exp, a, bias=a)
        """,
    ),
    "an argument that the instruction does not have": old(
        r"nki\.isa\.activation: .*unexpected keyword argument 'alpha'",
        """
        a = nl.load(x)
        nisa.activation(np.exp, a, alpha=2.0)
        """,
    ),
    "a matmul on the Vector Engine": old(
        r"nki\.isa\.activation: .*unexpected keyword argument 'engine'",
        """
        a = nl.load(x)
        nisa.activation(np.exp, a, engine=nisa.vector_engine)
        """,
    ),
    "a product of tiles on the Scalar Engine": old(
        r"nki\.isa\.tensor_tensor: engine is scalar, must be vector or gpsimd",
        """
        a = nl.load(x)
        nisa.tensor_tensor(a, a, op=np.multiply, engine=nisa.scalar_engine)
        """,
    ),
    "tiles of two shapes": old(
        r"nki\.isa\.tensor_tensor: tiles are \[128, 512\] and \[128, 256\], must be of one shape",
        """
        a = nl.load(x)
        nisa.tensor_tensor(a, a[:, 0:256], op=np.add)
        """,
    ),
    "a reduction over partitions": old(
        r"nki\.isa\.tensor_reduce: axis is .*0.*, must be free axes",
        """
        a = nl.load(x)
        nisa.tensor_reduce(np.add, a, axis=[0])
        """,
    ),
    "a transpose of 512 columns": old(
        r"nki\.isa\.nc_transpose: data is float32\[128, 512\], at most 128 columns",
        """
        a = nl.load(x)
        nisa.nc_transpose(a)
        """,
    ),
    "a mask that is no box": old(
        r"mask: an inequality between two axes.*affine_select",
        """
        i_p = nl.arange(128)[:, None]
        i_f = nl.arange(512)[None, :]
        nl.load(x[i_p, i_f], mask=i_p >= i_f)
        """,
    ),
    "a mask that is a number": old(
        r"nki\.language\.load: mask is 3, must be a comparison of indices",
        "nl.load(x, mask=3)",
    ),
    "a branch on what a tile holds": old(
        r"branch on what a tensor holds.*loop indices",
        """
        a = nl.load(x)
        if a[0, 0] > 0:
            nl.store(x, value=a)
        """,
        line=2,
    ),
    "a loop as long as a tile's value": old(
        r"nki\.language\.affine_range: a bound is .*, must be a whole number",
        """
        a = nl.load(x)
        for i in nl.affine_range(a[0:1, 0:1]):
            nl.store(x, value=a)
        """,
        line=2,
    ),
    "a tile that nobody has written": old(
        r"nki\.language\.store: nobody has written operand 1 of .*:2, a tile in sbuf",
        """
        a = nl.ndarray((nl.par_dim(128), 512), nl.float32, buffer=nl.sbuf)
        nl.store(x, value=a)
        """,
    ),
    "block dimensions that are not indexed": old(
        r"block dimensions \[4\].*index it first",
        """
        a = nl.ndarray((4, nl.par_dim(128), 512), nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(a)
        """,
    ),
    "more than SBUF holds": old(
        r"NeuronCore: .*bytes of sbuf.*has 25,165,824",
        """
        a = nl.ndarray((nl.par_dim(128), 65536), nl.float32, buffer=nl.sbuf)
        a[...] = nl.load(x)
        nl.store(x, value=a)
        """,
        (128, 65536),
        line=1,
    ),
    # --- the newer generation ---
    "a tile of 256 partitions": new(
        r"nki\.language\.ndarray: partition dimension is 256, at most 128 .*pmax",
        "nl.ndarray((256, 64), nl.float32, buffer=nl.sbuf)",
    ),
    "a destination is missing": new(
        r"nki\.isa\.tensor_tensor: missing .* 'data2'; it takes dst, data1, data2, op",
        TILES + "nisa.tensor_tensor(a, a, op=nl.add)",
    ),
    "a matmul's destination in SBUF": new(
        r"nki\.isa\.nc_matmul: dst is in SBUF, must be in PSUM",
        TILES + "nisa.nc_matmul(dst=b, stationary=w, moving=a)",
    ),
    "a matmul's operand in PSUM": new(
        r"nki\.isa\.nc_matmul: moving is in PSUM, must be in SBUF.*tensor_copy",
        TILES
        + """
        nisa.nc_matmul(dst=s, stationary=w, moving=a)
        nisa.nc_matmul(dst=s, stationary=w, moving=s)
        """.replace("        ", ""),
    ),
    "a matmul's destination of another shape": new(
        r"nki\.isa\.nc_matmul: the result is \[128, 256\], the destination \[128, 512\]",
        TILES + "nisa.nc_matmul(dst=s, stationary=w, moving=a[:, 0:256])",
    ),
    "a matmul's destination in two banks": new(
        r"nki\.isa\.nc_matmul: dst goes from bank 0 .* to bank 1, must be in one bank of 2048",
        TILES
        + """
        t = nl.ndarray((128, 1024), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=t[:, 256:768], stationary=w, moving=a)
        """.replace("        ", ""),
    ),
    "sums in integers": new(
        r"nki\.isa\.nc_matmul: destination is int32, must be float32",
        TILES
        + """
        t = nl.ndarray((128, 512), nl.int32, buffer=nl.psum)
        nisa.nc_matmul(dst=t, stationary=w, moving=a)
        """.replace("        ", ""),
    ),
    "an engine reads HBM": new(
        r"nki\.isa\.tensor_copy: src is in HBM, must be in SBUF or PSUM",
        TILES + "nisa.tensor_copy(dst=b, src=x)",
    ),
    "an engine writes HBM": new(
        r"nki\.isa\.tensor_copy: dst is in HBM, must be in SBUF or PSUM",
        TILES + "nisa.tensor_copy(dst=x, src=a)",
    ),
    "a DMA to PSUM": new(
        r"nki\.isa\.dma_copy: dst is in PSUM, must be in HBM or SBUF",
        TILES + "nisa.dma_copy(dst=s, src=x)",
    ),
    "a DMA of fewer elements than its destination": new(
        r"nki\.isa\.dma_copy: src is \[128, 256\], dst \[128, 512\]: must have as many elements",
        TILES + "nisa.dma_copy(dst=a, src=x[:, 0:256])",
    ),
    "a copy into another shape": new(
        r"nki\.isa\.tensor_copy: .*\[128, 512\].*\[128, 128\].*shape",
        TILES + "nisa.tensor_copy(dst=w, src=a)",
    ),
    "a start at partition 8": new(
        r"nki\.isa\.tensor_copy: operand 0 of .*:3 is 16 partitions from partition 8, must be .*32",
        TILES + "nisa.tensor_copy(dst=b[8:24, :], src=a[8:24, :])",
    ),
    "a pattern that leaves its tile": new(
        r"a partition of .* has 512 elements.*from 0 to 1022",
        TILES + "nisa.tensor_copy(dst=b, src=a.ap([[512, 128], [2, 512]]))",
    ),
    "a transpose of 512 columns, dst first": new(
        r"nki\.isa\.nc_transpose: data is float32\[128, 512\], at most 128 columns",
        TILES + "nisa.nc_transpose(dst=s, data=a)",
    ),
    "a transpose by an engine that has none": new(
        r"nki\.isa\.nc_transpose: engine is scalar, must be tensor or vector",
        TILES + "nisa.nc_transpose(dst=s, data=w, engine=nisa.scalar_engine)",
    ),
    "an engine that is a word": new(
        r"nki\.isa\.tensor_copy: engine is warp, must be vector or scalar or gpsimd",
        TILES + "nisa.tensor_copy(dst=b, src=a, engine='warp')",
    ),
    "a function that no generation has": new(
        r"nki\.language\.cumsum: this function is not supported",
        TILES + "nl.cumsum(a)",
    ),
    "a tile that only PSUM holds in nine banks": new(
        r"NeuronCore: .*bytes of psum.*has 2,097,152",
        TILES
        + """
        tiles = [nl.ndarray((128, 512), nl.float32, buffer=nl.psum) for _ in range(9)]
        for t in tiles:
            nisa.nc_matmul(dst=t, stationary=w, moving=a)
        for t in tiles:
            nisa.tensor_copy(dst=b, src=t)
        """.replace("        ", ""),
        line=8,
    ),
    "a tile is read before it is written": new(
        r"nki\.isa\.tensor_tensor: nobody has written operand . of .*:3, a tile in sbuf",
        TILES + "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)",
    ),
    "an exchange on one core": new(
        r"nki\.isa\.sendrecv: 1 programs? w.* launched, must be 2",
        TILES + "nisa.sendrecv(src=a, dst=b, send_to_rank=1, recv_from_rank=1)",
    ),
    "an exchange with itself": new(
        r"nki\.isa\.sendrecv: send_to_rank is 0, must be 1 on core 0",
        TILES + "nisa.sendrecv(src=a, dst=b, send_to_rank=0, recv_from_rank=0)",
        grid=2,
    ),
    "an axis that the launch does not have": new(
        r"nki\.language\.program_id: axis is 2, the launch grid has 1 dimension",
        TILES + "nl.program_id(2)",
        grid=2,
    ),
    "a launch on four cores": new(
        r"grid.*4.*2|4 programs.*2",
        TILES + "nisa.core_barrier(data=x, cores=(0, 1, 2, 3))",
        grid=4,
    ),
    "MX on Trainium2": new(
        r"nki\.isa\.quantize_mx: device is Trainium2, must be Trainium3",
        quantize(),
    ),
    "MX elements that are not packed": new(
        r"nki\.isa\.quantize_mx: dst is float8_e4m3fn, must be a packed format .*_x4",
        quantize(result="float8_e4m3fn"),
        device="trn3",
    ),
    "MX groups of another number": new(
        r"nki\.isa\.quantize_mx: src has 64 groups of 4 .* dst 128",
        quantize(columns=256),
        device="trn3",
    ),
    "MX of a 32-bit tile": new(
        r"nki\.isa\.quantize_mx: float32\[128, 128, 4\] to .*, must be a 16-bit float",
        quantize(dtype="float32"),
        device="trn3",
    ),
}
