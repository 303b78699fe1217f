"""A plan that fails is made smaller while it still fails the same way. Pure: who runs plans is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from chaos.plan import Plan, Step

TRIES_MAX = 150
SECONDS_MIN = 5.0  # of the faults' phase
STEP_SECONDS_MIN = 0.2
AFTER_SECONDS = 5.0  # of the phase, kept after the last fault's end


def shrink(
    plan: Plan,
    fails: Callable[[Plan], bool],
    *,
    tries_max: int = TRIES_MAX,
    says: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The smallest that was found: first without faults (many at once, then one by one), then without
    workloads, then with halves of the times. `fails` runs a plan and says whether it fails as the first did.
    """
    tries, best, progressed = 0, plan, True
    while progressed and tries < tries_max:
        progressed = False
        for smaller in _smaller(best):
            if tries >= tries_max:
                break
            tries += 1
            if fails(smaller):
                best, progressed = smaller, True
                says(
                    f"{len(best.steps)} faults, {len(best.configuration.workloads)} workloads, "
                    f"{best.fault_seconds:.0f} s still fail (try {tries})"
                )
                break
    return best


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Candidates, each a little smaller than `plan`, the boldest first."""
    yield from _fewer_steps(plan)
    yield from _fewer_workloads(plan)
    yield from _less_time(plan)
    yield from _shorter_steps(plan)


def _fewer_steps(plan: Plan) -> Iterator[Plan]:
    steps = plan.steps
    size = len(steps)
    while size >= 1:
        for start in range(0, len(steps), size):
            yield msgspec.structs.replace(plan, steps=steps[:start] + steps[start + size :])
        size //= 2


def _fewer_workloads(plan: Plan) -> Iterator[Plan]:
    names = plan.configuration.workloads
    for number in range(len(names)) if len(names) > 1 else ():
        configuration = msgspec.structs.replace(
            plan.configuration, workloads=names[:number] + names[number + 1 :]
        )
        yield msgspec.structs.replace(plan, configuration=configuration)


def _less_time(plan: Plan) -> Iterator[Plan]:
    end = max((step.at_seconds + step.seconds for step in plan.steps), default=0.0)
    wanted = max(SECONDS_MIN, round(end + AFTER_SECONDS, 2))
    if wanted < plan.fault_seconds:
        yield msgspec.structs.replace(plan, fault_seconds=wanted)
    halved = tuple(msgspec.structs.replace(s, at_seconds=round(s.at_seconds / 2, 2)) for s in plan.steps)
    if any(step.at_seconds >= 1 for step in plan.steps):
        yield msgspec.structs.replace(plan, steps=halved)


def _shorter_steps(plan: Plan) -> Iterator[Plan]:
    for number, step in enumerate(plan.steps):
        if step.seconds > 2 * STEP_SECONDS_MIN:
            shorter: Step = msgspec.structs.replace(step, seconds=round(step.seconds / 2, 2))
            yield msgspec.structs.replace(
                plan, steps=(*plan.steps[:number], shorter, *plan.steps[number + 1 :])
            )
