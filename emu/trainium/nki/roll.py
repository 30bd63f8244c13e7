"""Puts loops back into a kernel that was run iteration by iteration."""

from emu.trainium.nki.tree import Node, Operation, Place, Tensor


class Roll:
    """The operations of a kernel as they come in; a skeleton that does not roll yet."""

    def __init__(self) -> None:
        self.open: list[Node] = []

    def declare(self, tensor: Tensor) -> None:
        """A tensor is made here."""

    def add(self, operation: Operation) -> None:
        self.open.append(operation)

    def begin(self, kind: str, place: Place) -> object:
        return object()

    def turn(self, loop: object) -> None:
        """The loop's next iteration begins."""

    def end(self, loop: object) -> None:
        """The loop is over."""

    def finish(self) -> list[Node]:
        return self.open
