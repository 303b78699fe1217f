"""Turns what clients do into a history. Knows errors and the harness's clock; no workload, no cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gfs.errors import GfsError
from gfs.verification.history import Audit, History, Json, Operation, Sighting

T = TypeVar("T")


class Recorder:
    """Shared by all workloads of one run.

    `now_ns`: the harness's own clock, ns since the run began; never a clock under attack.
    """

    def __init__(self, history: History, now_ns: Callable[[], int]) -> None:
        self.history = history
        self.now_ns = now_ns
        self._numbers = 0
        self._processes = 0

    def process(self, workload: str) -> RecordedProcess:
        """A client that does one thing after the other."""
        return RecordedProcess(self, workload)

    def audit(self, workload: str, what: str, **values: Json) -> None:
        self.history.add(Audit(self.now_ns(), workload, what, values))

    def saw(self, node: str, what: str, **values: Json) -> None:
        self.history.add(Sighting(self.now_ns(), node, what, values))

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def next_process(self) -> int:
        self._processes += 1
        return self._processes


class RecordedProcess:
    def __init__(self, recorder: Recorder, workload: str) -> None:
        self._recorder, self._workload = recorder, workload
        self._number = recorder.next_process()

    async def run(
        self,
        function: str,
        arguments: dict[str, Json],
        call: Awaitable[T],
        *,
        partition: str = "",
        result: Callable[[T], Json] = lambda _: None,
    ) -> T:
        """Await `call`, write down how it ended, and return or raise what it does.

        `result`: what of the answer is worth keeping, as JSON.
        Raises: what `call` raises. An error that is no GfsError counts as `info`.
        """
        recorder = self._recorder
        operation = Operation(
            number=recorder.next_number(),
            process=self._number,
            workload=self._workload,
            function=function,
            called_ns=recorder.now_ns(),
            returned_ns=0,
            outcome="info",
            partition=partition,
            arguments=arguments,
        )
        try:
            answer = await call
        except BaseException as error:  # a cancelled call, too, may have taken effect
            if isinstance(error, GfsError):
                operation.outcome = "fail" if error.definite else "info"
                operation.error, operation.message = error.code, error.message
            else:
                operation.error, operation.message = type(error).__name__, str(error)
            if operation.outcome == "info":
                self._number = recorder.next_process()
            raise
        else:
            operation.outcome, operation.result = "ok", result(answer)
            return answer
        finally:
            operation.returned_ns = recorder.now_ns()
            recorder.history.add(operation)
