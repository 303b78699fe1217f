"""How much of something may be done now, at a bounded rate: scrubbing, cloning. Decides; waits for nobody."""

from __future__ import annotations


class TokenBucket:
    """`per_second` tokens flow in, up to `burst`; whoever takes more than there are owes the rest as waiting.

    Invariant: at most `burst` + t * `per_second` tokens are taken within any t seconds, but for one taking
    larger than the burst, which is paid for by the next.
    """

    def __init__(self, per_second: float, *, burst: float, now: float) -> None:
        assert per_second > 0 and burst > 0, (per_second, burst)
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def set_rate(self, per_second: float, *, now: float) -> None:
        """From now on. What has flowed in, or is owed, stays."""
        assert per_second > 0, per_second
        self._fill(now)
        self._per_second = per_second

    def take(self, tokens: float, *, now: float) -> float:
        """Take `tokens`; returns the seconds to wait before using them.

        Args:
            now: monotonic seconds.
        """
        assert tokens >= 0, tokens
        self._fill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._per_second)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self._filled_at = now
        self._tokens = min(self._burst, self._tokens + passed * self._per_second)
