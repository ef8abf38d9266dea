"""The time that work will still take, by its recent pace."""

from __future__ import annotations

import math
from collections import deque

APART_S = 0.5  # between two counts that are kept
LEAST_S, MOST_S = 10.0, 300.0  # of the past that a pace is taken from


class Pace:
    """Tell it the count of finished items as it rises; it gives the time left for the others.

    The pace is that of the latest items, over a past about as long as the time left: a machine that became busy or idle
    is noticed soon, and a pause between the items of a long work counts with them. The time before the first item, in
    which processes start, is left out. An item that takes longer than those before lowers the pace while it lasts.
    """

    def __init__(self):
        self.rises: deque[tuple[float, float]] = deque()  # (time in s, count)
        self.done: float | None = None  # the latest count that was kept

    def see(self, done: float, now_s: float) -> None:
        """`now_s` is the time of any clock that does not jump. A count that falls begins again."""
        if self.done is None or done < self.done:
            self.rises.clear()
            self.done = done
        elif done > self.done and not (self.rises and now_s - self.rises[-1][0] < APART_S):
            self.rises.append((now_s, done))
            self.done = done
            while len(self.rises) > 2 and self.rises[1][0] < now_s - MOST_S:
                self.rises.popleft()

    def left_s(self, total: float, now_s: float) -> int | None:
        """The seconds until the count is `total`, at least 1; None until it was seen to rise twice."""
        if len(self.rises) < 2:
            return None
        last_s, last = self.rises[-1]
        since_s, left_s, rises = now_s - last_s, 0.0, reversed(self.rises)
        next(rises)
        for number, (start_s, start) in enumerate(rises, 1):
            step = (last - start) / number  # items in a rise
            item_s = max((last_s - start_s) / (last - start), (now_s - start_s) / (last - start + step))
            current = min(step, total - last)
            left_s = (total - last - current) * item_s + max(0.0, current * item_s - since_s)
            if now_s - start_s >= min(max(left_s, LEAST_S), MOST_S):
                break
        return max(1, math.ceil(left_s))


def clock(seconds: int | None) -> str:
    """Hours, minutes and seconds, as 1:02:03; dashes for None."""
    return "-:--:--" if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
