"""Queues and routers of a wafer in plain Python: one wavelet a cycle over each link.

What is under way is in the queue that it goes to, and counts there. A PE is its flat index
`y * width + x`.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable

from emu.wse.fabric import ops
from emu.wse.fabric.directions import OPPOSITE, PORTS, RAMP
from emu.wse.fabric.encoding.encode import Encoded

Tag = tuple[int, int, int]
Queue = collections.deque["Wavelet"]
Queues = collections.defaultdict[tuple[int, ...], Queue]
Latest = collections.defaultdict[tuple[int, ...], int]
NEVER = -1
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (dy, dx) of each direction


@dataclasses.dataclass
class Simulated:
    """What happened.

    Attributes:
      order: (cycle, PE, instruction) of each dispatch; -2 - task where a data task starts.
      operations: [instruction, PE, dispatch, first issue, last issue] of each vector operation.
      ends: per PE, when its main thread was last done, microthreads included.
      stamps: per name and PE, the cycle read.
      links: wavelets that routers sent, per (direction, PE).
      read: per (color, PE), the tags `(sender, color, number)` of the wavelets taken in order.
      unread: per (color, PE), wavelets left in its input queue.
      stuck: PEs that had not finished, each with what it waits for.
      stranded: wavelets left in output queues and routers.
      mixed: (cycle, PE, color) where a router had two arrivals that it might forward.
      shared: (cycle, PE) where two operations of a PE moved words of one color at once.
    """

    order: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    operations: list[list[int]] = dataclasses.field(default_factory=list)
    ends: dict[int, int] = dataclasses.field(default_factory=dict)
    stamps: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    links: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    read: dict = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    unread: dict = dataclasses.field(default_factory=dict)
    stuck: dict = dataclasses.field(default_factory=dict)
    stranded: int = 0
    mixed: list = dataclasses.field(default_factory=list)
    shared: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Wavelet:
    """One wavelet in a queue, or on its way into it.

    Attributes:
      there: the cycle from which it is in the queue.
      kind: `ops.DATA`, or whose routers it turns.
      tag: (sender, color, number) of the word that it carries.
    """

    there: int
    kind: int
    tag: Tag


class Routers:
    """The fabric's state in cycle `now`.

    Every decision of a cycle sees the state at its start, arrivals included; what is put in `later`
    is done as the next cycle starts.

    Attributes:
      outputs, inputs: by (color, PE), the queues at a PE's ramp.
      channels: by (color, PE, direction), the queues of its router.
      position: by (color, PE), of its switch.
      last_entered, last_forwarded: by (color, PE), when one last left the output queue, the router.
      held: how many each queue held as the cycle started, by `key`.
    """

    def __init__(self, encoded: Encoded):
        self.encoded = encoded
        self.device = encoded.device
        self.now = 0
        self.height, self.width = encoded.program.shape
        self.pes = range(self.height * self.width)
        self.colors = list(encoded.program.colors.values())
        self.outputs: Queues = collections.defaultdict(collections.deque)
        self.channels: Queues = collections.defaultdict(collections.deque)
        self.inputs: Queues = collections.defaultdict(collections.deque)
        self.position: Latest = collections.defaultdict(int)
        self.last_entered: Latest = collections.defaultdict(lambda: NEVER)
        self.last_forwarded: Latest = collections.defaultdict(lambda: NEVER)
        self.did = Simulated()
        self.later: list[Callable[[], object]] = []
        self.busy = False

    def there(self, queue: Queue) -> bool:
        """Whether a queue's head is in it."""
        return bool(queue) and queue[0].there <= self.now

    def key(self, queues: Queues, *at: int) -> tuple[int, ...]:
        return (id(queues), *at)

    def see(self) -> None:
        """Counts what is in every queue, or on its way there, as this cycle starts."""
        self.held = collections.Counter()
        for queues in (self.outputs, self.channels, self.inputs):
            for at, queue in queues.items():
                self.held[self.key(queues, *at)] = len(queue)

    def enter(self, pe: int) -> None:
        """One output queue hands a wavelet to the router."""
        ramp_cycles = int(self.device.ramp_cycles)
        room = int(self.device.router_queue_words) + ramp_cycles
        wants: list[int] = []
        for color in range(len(self.colors)):
            held = self.held[self.key(self.channels, color, pe, RAMP)]
            if self.there(self.outputs[color, pe]) and held < room:
                wants.append(color)
        if not wants:
            return
        color = min(wants, key=lambda color: (self.last_entered[color, pe], color))
        wavelet = self.outputs[color, pe].popleft()
        wavelet.there = self.now + ramp_cycles
        self.channels[color, pe, RAMP].append(wavelet)
        self.last_entered[color, pe] = self.now
        self.busy = True

    def forward(self, pe: int) -> None:
        """The router forwards the head of each color that wins all the links it wants."""
        heads: dict[int, tuple[int, set[int]]] = {}
        for color in range(len(self.colors)):
            head = self.head(color, pe)
            if head is not None:
                heads[color] = head

        def longest_without(color: int) -> tuple[int, int]:
            return self.last_forwarded[color, pe], color

        for color, (side, sends) in heads.items():
            rivals = [
                other
                for other, (_, wanted) in heads.items()
                if other != color and wanted & sends
            ]
            if all(longest_without(color) < longest_without(rival) for rival in rivals):
                move = functools.partial(self.sent, color, pe, side, sends)
                self.later.append(move)
                self.busy = True

    def head(self, color: int, pe: int) -> tuple[int, set[int]] | None:
        """Direction of the wavelet that the router could forward and where it goes, if it may."""
        routes = self.colors[color]
        position = self.position[color, pe]
        receive = int(routes.receive[position].reshape(-1)[pe])
        send = int(routes.send[position].reshape(-1)[pe])
        sides = [
            side
            for side in PORTS
            if receive >> side & 1 and self.there(self.channels[color, pe, side])
        ]
        arrived = [
            side
            for side in sides
            if any(
                wavelet.there == self.now for wavelet in self.channels[color, pe, side]
            )
        ]
        if len(arrived) > 1:
            self.did.mixed.append((self.now, pe, color))
        if not sides:
            return None
        side = sides[0]
        sends = {to for to in PORTS if send >> to & 1}
        if self.channels[color, pe, side][0].kind != ops.DATA:
            sends.discard(RAMP)
        if not all(self.room(color, pe, to) for to in sends):
            return None
        return side, sends

    def beside(self, pe: int, side: int) -> int:
        down, right = STEPS[side]
        return pe + down * self.width + right

    def room(self, color: int, pe: int, side: int) -> bool:
        """Whether there is room for one more wavelet in that direction."""
        device = self.device
        if side == RAMP:
            held = self.held[self.key(self.inputs, color, pe)]
            depth = int(self.encoded.inputs.flat_words[color, pe])
            return held < depth + device.ramp_cycles
        there = self.beside(pe, side)
        held = self.held[self.key(self.channels, color, there, OPPOSITE[side])]
        return held < device.router_queue_words + device.hop_cycles

    def sent(self, color: int, pe: int, side: int, sends: set[int]) -> None:
        """A wavelet that left in the cycle before is on its way; a control wavelet acts."""
        left = self.now - 1
        wavelet = self.channels[color, pe, side].popleft()
        for to in sends:
            if to == RAMP:
                queue = self.inputs[color, pe]
                there = left + int(self.device.ramp_cycles)
            else:
                queue = self.channels[color, self.beside(pe, to), OPPOSITE[to]]
                there = left + int(self.device.hop_cycles)
            queue.append(dataclasses.replace(wavelet, there=there))
            self.did.links[to, pe] += 1
        self.last_forwarded[color, pe] = left
        own = wavelet.kind == ops.OWN and side == RAMP
        routes = self.colors[color]
        if (own or wavelet.kind == ops.ALL) and routes.heeds.reshape(-1)[pe]:
            last = int(routes.last.reshape(-1)[pe])
            self.position[color, pe] = min(self.position[color, pe] + 1, last)
