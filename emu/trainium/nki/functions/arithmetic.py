"""What Python's operators mean between the old generation's tiles: `a + b`, `tile[...] = value`.

A function of that generation returns a fresh tile. Where it is assigned to a part of another one,
`tile[i] = nisa.activation(...)`, no copy is made: the operation writes there in the first place.
"""

from emu.trainium.nki.functions import aliases, operands, psum
from emu.trainium.nki.functions.copy import tensor_copy
from emu.trainium.nki.functions.elementwise import memset, tensor_tensor
from emu.trainium.nki.functions.transfer import store
from emu.trainium.nki.handles import Handle, strides
from emu.trainium.nki.record import current, register
from emu.trainium.nki.tree import Access, Operation

PRODUCTS = ("trn.nc_matmul", "trn.nc_matmul_double_row")


def binary(name: str, left: "Handle | float", right: "Handle | float") -> Handle:
    """`left name right`, with NKI's name of the operator, such as `subtract`."""
    return tensor_tensor(None, left, right, name, name=f"nki.language.{name}")


def assign(destination: Handle, value: "Handle | float") -> None:
    """`destination[...] = value`."""
    if not isinstance(value, Handle):
        memset(destination, value, name="nki.language.memset")
        return
    operation = value.producer
    if operation is not None:
        if any(0 in access.shape for access in operation.accesses):
            return
        if _moved(operation, destination, value):
            return
    if destination.buffer == "hbm":
        store(destination, value)
    else:
        tensor_copy(destination, value, name="nki.language.copy")


def _moved(operation: Operation, destination: Handle, value: Handle) -> bool:
    """Makes the operation write its result to the destination, if it can."""
    target = _target(operation, destination, value)
    if target is None or aliases.held(target):
        return False
    if not current().retarget(operation, target):
        return False
    psum.overwrite(target)
    value.become(destination)
    aliases.note(value)
    return True


def _target(operation: Operation, destination: Handle, value: Handle) -> Access | None:
    """Where in the destination the operation writes what it wrote of its fresh tile."""
    write = operation.writes[0]
    if write.tensor is not value.tensor or destination.buffer == "hbm":
        return None
    if write.space == "psum" and destination.buffer != "psum":
        # What the Tensor Engine computes it leaves in PSUM.
        return None
    if operation.choice.engine == "dma" and destination.buffer == "psum":
        return None
    part = _clipped(write, destination, value)
    return None if part is None else operands.shaped(part, write.shape)


def _clipped(write: Access, destination: Handle, value: Handle) -> Access | None:
    """The destination as far as a mask had let the fresh tile be written."""
    shape = operands.two_dimensional(value.shape)
    whole = destination
    if operands.two_dimensional(whole.shape) != shape:
        access = whole.access()
        same = operands.shaped(access, shape)
        return same if write.shape == shape or _covers(write, shape) else None
    if _covers(write, shape):
        return whole.access()
    axes = strides(shape[1:])
    if len(axes) != len(write.axes) or write.partition.constant:
        return None
    offset = write.offset.constant
    keys = [slice(0, write.partitions)]
    for (stride, _), (other, count) in zip(axes, write.axes, strict=True):
        if stride != other and count > 1:
            return None
        first, offset = divmod(offset, stride)
        keys.append(slice(first, first + count))
    return whole[tuple(keys[: whole.ndim])].access()


def _covers(write: Access, shape: tuple[int, ...]) -> bool:
    elements = operands.elements(write) * (write.partitions or 1)
    whole = 1
    for size in shape:
        whole *= size
    return elements == whole


def accumulate(destination: Handle, value: "Handle | float") -> Handle:
    """`destination += value`; returns the destination."""
    if isinstance(value, Handle) and destination.buffer == "psum":
        operation = value.producer
        if operation is not None and any(0 in x.shape for x in operation.accesses):
            return destination
        if operation is not None and _added(operation, destination, value):
            return destination
    tensor_tensor(destination, destination, value, "add", name="nki.language.add")
    return destination


def _added(operation: Operation, destination: Handle, value: Handle) -> bool:
    """Makes a product add to the destination instead of writing a fresh bank."""
    if operation.choice.instruction.name not in PRODUCTS:
        return False
    target = _target(operation, destination, value)
    if target is None or not current().retarget(operation, target):
        return False
    operation.reads = (*operation.reads[:-1], register(psum.add(target)))
    value.become(destination)
    return True
