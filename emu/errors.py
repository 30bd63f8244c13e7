"""The errors a kernel author meets, each naming the instruction, the figures and the line."""


class EmulationError(Exception):
    """A kernel that the emulated machine cannot run as written.

    The message reads *instruction: what is wrong, actual against allowed (file:line)*.
    """

    def __init__(self, what: str, where: str = ""):
        super().__init__(f"{what} ({where})" if where else what)


class NoCostRule(EmulationError):
    """An equation for which the device has no instruction."""


class WrongSpace(EmulationError):
    """An operand that is not in the memory the instruction reads."""


class StaleTile(EmulationError):
    """A read of a tile whose buffer was overwritten since."""


class UnwrittenTile(EmulationError):
    """A tile that is read, or added to, before anything was written to it."""


class DataDependentBranch(EmulationError):
    """A branch or a cost that depends on data the clock does not know."""


class UnreadInstruction(EmulationError):
    """An instruction whose result nothing reads: XLA would delete what the clock bills."""


class WrongShape(EmulationError):
    """Operands that an instruction cannot take together."""


class LimitExceeded(EmulationError):
    """An operand larger than the hardware takes."""


class OutOfMemory(EmulationError):
    """More live bytes in a memory space than one core has."""


class PartialCollective(EmulationError):
    """A collective inside a branch that only some cores of the mesh take."""


class BranchBufferMismatch(EmulationError):
    """Branches taken by different cores that return different buffers in one place."""


class NkiError(EmulationError):
    """A kernel that NKI itself would refuse, in its terms."""
