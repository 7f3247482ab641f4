"""Which master to dial next, and after what wait. Pure: clock and chance are arguments.

A fleet must not come back in one moment (waits grow, and are spread by chance), but an agent must find the next leader
at once: a master that refuses costs no wait while another is known, one that was silent is in doubt for a while (others
are asked first, and it gets little patience, even if others still name it as the leader), and a leader of a new term
ends the growth of the waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RETRY_BASE_S = 0.1
RETRY_CEILING_S = 5.0
"""Waits between dials; doubled and spread by chance, so that a fleet does not come back in one moment."""

LASTING_S = 10.0
"""A session that lasted this long ends the back-off; one that is welcomed and cut at once must not."""

HOPS_LIMIT = 3
"""Redirects followed at once; more means that masters point at each other while nobody leads."""

DOUBTED_S = 15.0
"""A silent master is in doubt for this long: its host may be gone, and every dial would cost the whole patience."""

DOUBTED_PATIENCE_S = 1.0
"""Patience with a master in doubt, doubled each time: one that lives again answers in milliseconds, a busy one not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dial ended. `urls`: dial these at once. `wait_s`: wait this long first. `text`: for the log.

    `lasted_s` is counted from the Welcome (None: there was none), `term` is the leader's. `is_refused`: nobody listens
    there. `is_silent`: it accepted us, or should have, and said nothing.
    """

    text: str = ""
    urls: tuple[str, ...] = ()
    wait_s: float | None = None
    lasted_s: float | None = None
    term: int = 0
    is_refused: bool = False
    is_silent: bool = False


class Masters:
    """The masters of the settings in turn, and those that others named."""

    def __init__(self, urls: Sequence[str], uniform: Callable[[float, float], float]) -> None:
        self._known = deque(urls)
        self._known.rotate(-int(uniform(0, len(urls))))
        self._uniform = uniform
        self._named: deque[str] = deque()
        self._doubted_until_s: dict[str, float] = {}
        self._doubts: dict[str, int] = {}
        self._delay_s = RETRY_BASE_S
        self._hops = 0
        self._refusals = 0
        self._term = 0

    def next(self, now_s: float) -> str:
        """Return the URL to dial now."""
        if self._named:
            return self._named.popleft()
        for _ in range(len(self._known)):
            self._known.rotate(-1)
            if not self.is_doubted(self._known[-1], now_s):
                break
        return self._known[-1]

    def note(self, url: str, outcome: Outcome, now_s: float) -> float:
        """Take in how the dial of `url` ended; return how long to wait before the next one, in seconds."""
        if outcome.is_silent and self.is_doubted(url, now_s):
            self._doubts[url] += 1  # but the doubt ends in its time: it may be there, and have much to do
        elif outcome.is_silent:
            self._doubted_until_s[url], self._doubts[url] = now_s + DOUBTED_S, 0
        elif outcome.lasted_s is not None or outcome.urls:
            self._doubted_until_s.pop(url, None)
        if outcome.lasted_s is not None:
            self._named.clear()
            if outcome.lasted_s >= LASTING_S or outcome.term > self._term:
                self._delay_s, self._hops = RETRY_BASE_S, 0
            self._term = max(self._term, outcome.term)
        if outcome.urls and self._hops < HOPS_LIMIT:
            self._hops += 1
            self._named = deque(outcome.urls)
            return 0.0
        if self._named:
            return 0.0
        self._hops = 0
        self._refusals = self._refusals + 1 if outcome.is_refused else 0
        if 0 < self._refusals < len(self._known):
            return 0.0  # that one is gone: the others are asked before any wait
        self._refusals = 0
        wait_s = outcome.wait_s if outcome.wait_s is not None else self._delay_s
        self._delay_s = min(RETRY_CEILING_S, self._delay_s * 2)
        return wait_s * self._uniform(0.5, 1.0)

    def patience_s(self, url: str, now_s: float) -> float | None:
        """Return how long to wait for a master in doubt; None: it is not, or there is nobody else to ask."""
        if not self.is_doubted(url, now_s) or all(self.is_doubted(each, now_s) for each in self._known):
            return None
        return DOUBTED_PATIENCE_S * 2.0 ** self._doubts[url]

    def is_doubted(self, url: str, now_s: float) -> bool:
        """Return whether the master was silent not long ago."""
        return self._doubted_until_s.get(url, 0.0) > now_s
