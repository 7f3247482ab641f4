"""What is asked of a log, from the command line down to the agent that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines of a log: the last `tail`, not before `since_at`, before `until_at` (seconds since 1970).

    `is_followed`: with what comes after; `is_timed`: each line begins with its time.
    """

    tail: int
    is_followed: bool = False
    since_at: float | None = None
    until_at: float | None = None
    is_timed: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return what an agent is asked; what is not asked for is left out."""
        asked: dict[str, Any] = {"tail": self.tail, "follow": self.is_followed}
        if self.since_at is not None:
            asked["since_at"] = self.since_at
        if self.until_at is not None:
            asked["until_at"] = self.until_at
        if self.is_timed:
            asked["is_timed"] = True
        return asked
