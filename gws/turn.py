"""Whose turn it is: processor time, shared among all the streams of a hub instead of granted to each of them.

Knows neither sockets nor frames.  What a frame costs is the peer's choice (think of small ones that inflate to large
messages), and so is the number of such peers.  So whoever is new, and whoever's frames took long, stands in a lane, and
all lanes together have one spell per turn of the loop; the others go on at once.  A stream asks `may_go()` before it
wakes a reader that is not trusted; if not, it joins a lane and is called when its turn has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, thread_time
from typing import Any

__all__ = ["HEAVY", "KNOWN", "LARGE", "LONG", "NEW", "PROOF", "PROOF_MOST", "SHARE", "SPELL", "Lanes", "Standing"]

KNOWN, NEW, HEAVY = range(3)  # the lanes
Lane = deque[Callable[[], None]]

# All of these are seconds of processor time.  (What other processes do meanwhile is nobody's fault here.)
SPELL = 0.005  # that all in the lanes have together in a turn of the loop
SHARE = 0.5  # of the time that all others had, where this is more: what the light lanes have
LONG = 0.001  # that a batch may take for its sender to be trusted
LARGE = 16 * 1024  # bytes of a message that is likely to take long, whatever is done with it
PROOF = 16  # batches that have to be short until a sender is trusted
PROOF_MOST = 4096  # the same for who was trusted, and took long again, over and over


class Lanes:
    """Who waits for a turn.

    The light lanes have half of a spell, and the rest of it is for those who take long, one of them at least: so no
    crowd in one lane can starve another.   And nor can the trusted starve those who are new: where they take a tenth of
    a second, because so many are at work, half a spell would be next to nothing, and so it is longer then.
    """

    __slots__ = ("_light", "_loop", "_next", "_since", "_timer", "_waiting", "began", "clock", "running", "until")

    def __init__(self, loop: Any):
        self._loop = loop
        self._timer: Any = None  # runs while there is a spell that somebody has a part of, or waits for
        self._waiting: tuple[Lane, ...] = (deque(), deque(), deque())
        self._light = self._waiting[:HEAVY]
        self._next = 0
        self._since = 0.0  # when the turn began of which the next spell is the end, in processor time
        self.until = 0.0  #: when the spell ends, in processor time
        # Whose turn it is, and by which clock since when.  (The compiled streams have their own.)
        self.running: Any = None
        self.clock: Callable[[], float] = monotonic
        self.began = 0.0

    def may_go(self) -> bool:
        """Tell whether somebody who is not trusted may go on at once: while nobody waits, and the spell lasts."""
        if any(self._waiting):
            return False
        if self._timer is None:
            self._start()
            self.until = self._since + SPELL
            return True
        return thread_time() < self.until

    def join(self, lane: int, go_on: Callable[[], None]) -> None:
        """Have `go_on()` called in the hub, when its turn has come."""
        self._waiting[lane].append(go_on)
        if self._timer is None:
            self._start()

    def _start(self) -> None:
        self._since = thread_time()
        self._timer = self._loop.timer(0)  # unlike a callback, it comes behind the poll
        self._timer.start(self._over)

    def _over(self) -> None:
        """The loop has polled: begin the next spell."""
        self._timer.close()
        self._timer = None
        began = thread_time()
        light = began + max(SPELL / 2, SHARE * (began - self._since))
        self.until = light + SPELL / 2
        try:
            self._call(self._light, light)
            self.until = max(began + SPELL, min(thread_time(), light) + SPELL / 2)  # what was left over is not theirs
            self._call(self._waiting[HEAVY:], self.until)
            if thread_time() < self.until:
                self._call(self._light, self.until)
        finally:
            if any(self._waiting) and self._timer is None:
                self._start()

    def _call(self, lanes: Sequence[Lane], until: float) -> None:
        """Call who waits in these lanes, by turns: one at least, and no further one from that time on."""
        while any(lanes):
            self._next += 1
            lane = lanes[self._next % len(lanes)]
            if lane:
                lane.popleft()()
                if thread_time() >= until:
                    return


class Standing:
    """Whether one sender is trusted, and the lane where it waits otherwise.   (The compiled stream has the same in C.)

    A trusted one is timed by the clock on the wall, which costs next to nothing, but also counts what other processes
    did meanwhile: so it is only put to the proof.  The others are timed in processor time.
    """

    __slots__ = ("_due", "_proof", "lane")

    def __init__(self) -> None:
        self.lane = KNOWN
        self._due = 0  # short batches that it has to show when it is put to the proof the next time
        self._proof = 0  # how many of them are left

    @property
    def trusted(self) -> bool:
        """Whether it need not wait.   Who only shakes hands need not: that is short, and bounded."""
        return not self._proof

    def begin(self) -> None:
        """Frames are to come from it: if nothing is known of it yet, it is new."""
        if not self._due:
            self.lane = NEW
            self._due = self._proof = PROOF

    def clock(self) -> Callable[[], float]:
        """Return what its next batch is to be timed by."""
        return monotonic if self.trusted else thread_time

    def judge(self, clock: Callable[[], float], took: float) -> None:
        """Take account of a batch."""
        if clock is monotonic:
            if took > LONG and self.trusted:
                self._proof = self._due
        elif took > LONG:
            self.lane = HEAVY
            self._due = self._proof = min(2 * self._due, PROOF_MOST)
        elif self._proof:
            self._proof -= 1
            if not self._proof:
                self.lane = KNOWN
