"""chaos/README.md, written from the code: scenarios, faults, targets, checkers, and what was found."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

from chaos.faults.registry import FAULTS
from chaos.faults.targets import ROLES
from chaos.planted.all_bugs import BUGS
from chaos.planted.bug import Seen
from chaos.registries import checkers, workloads
from chaos.regressions import load_all
from chaos.scenarios.interface import Scenario
from chaos.scenarios.registry import SCENARIOS

README = Path(__file__).parent / "README.md"

_BEGINNING = """\
# Chaos: how gfs is attacked, and what came of it

Written by `python -m chaos list --markdown > chaos/README.md`; a test holds it equal to the code.

A *scenario* says who is hurt, how, under what work, and what must hold. A *seed* turns it into a *plan*: a
configuration and a timed list of faults, kept as JSON, printable, editable, replayable. Three *layers* can
play plans:

- `sim`: the real masters, chunk servers and clients in one process, in virtual time. Same seed, same run.
- `toxi`: real processes, each link between them through a proxy of its own (Toxiproxy).
- `kernel`: real processes in network namespaces; faults by the kernel, the disk and the clock beneath them.

Each run: calm traffic first (below a floor the run says nothing), then the faults, at most as many at once as
the cluster is built to survive unless the scenario says otherwise, then everything is healed; each workload
must get a write acknowledged, what is there is audited, and checkers judge the history of all calls.

```
python -m chaos run --scenario partition-leader --seed 42 --minutes 2    # one run; --layer sim|toxi|kernel
python -m chaos run --scenario all --layer toxi --minutes 1              # all that this layer can play
python -m chaos sim --seeds 0:200 --jobs 2                               # many seeds of `everything`
python -m chaos soak --hours 8 --resume                                  # for long, in slices
python -m chaos replay DIR                                               # the plan of an earlier run, again
python -m chaos check DIR                                                # judge an earlier run anew
python -m chaos shrink DIR                                               # make a failing plan smaller
python -m chaos regress                                                  # play all that was ever found
python -m chaos list                                                     # scenarios, and what can be played
python -m chaos tools                                                    # what each layer can do here
python -m chaos failpoints                                               # where programs can be told to die
python -m chaos tools --install                                          # the real Toxiproxy, where Go is
python -m chaos planted [NAME…]                                          # bugs on purpose: is each noticed?
```

Exit statuses: 0 all held, 1 a promise was broken, 2 undecided or too little traffic (or the layer cannot play
it), 3 the run itself went wrong. Each run leaves `verdict.json`, `report.md`, `timeline.svg`, `history.jsonl`
and `plan.json`.
"""


def markdown() -> str:
    parts = [_BEGINNING, "## Scenarios", "", *_scenarios(), "", "## Faults", "", *_faults()]
    parts += ["", "## Whom faults meet", "", *_rows("target", "meets", ROLES.items())]
    parts += ["", "## What must hold", "", *_rows("checker", "promises", _promises())]
    parts += ["", "## Work", "", *_rows("workload", "does", _work())]
    parts += ["", "## Planted bugs", "", *_planted()]
    parts += ["", "## What was found", "", *_found()]
    return "\n".join(parts) + "\n"


def _scenarios() -> Iterable[str]:
    yield f"{len(SCENARIOS)} by name."
    yield ""
    yield "| scenario | layers | faults | work | must hold | what it is about |"
    yield "|---|---|---|---|---|---|"
    for scenario in SCENARIOS.values():
        layers, faults = " ".join(scenario.layers), ", ".join(_fault_names(scenario)) or "none"
        work = ", ".join(dict.fromkeys(scenario.workloads))
        holds = ", ".join(scenario.holds) or "what its work names"
        yield f"| `{scenario.name}` | {layers} | {faults} | {work} | {holds} | {scenario.says} |"


def _planted() -> Iterable[str]:
    seen = sum(isinstance(bug.seen, Seen) for bug in BUGS.values())
    yield f"{len(BUGS)} ways to break the product on purpose, one at a time. Each must be noticed by what is"
    yield "named with it (tests/chaos/planted), and the product without it must pass; tests prove both."
    yield f"{seen} of them the suite's own scenarios see, too, within seconds of CPU; the others say why not."
    yield ""
    yield "| bug | the product then | noticed by the trial | and by the scenario |"
    yield "|---|---|---|---|"
    for bug in BUGS.values():
        by = f"`{bug.seen.scenario}`" if isinstance(bug.seen, Seen) else f"none: {bug.seen}"
        yield f"| `{bug.name}` | {bug.says} | {bug.caught.trial if bug.caught else '-'} | {by} |"


def _fault_names(scenario: Scenario) -> list[str]:
    names = list(dict.fromkeys(blow.fault for round_ in scenario.rounds for blow in round_))
    return names if len(names) <= 8 else [f"{len(names)} kinds, drawn by the seed"]


def _faults() -> Iterable[str]:
    yield "| fault | needs | meets by default | arguments | what it does |"
    yield "|---|---|---|---|---|"
    for fault in FAULTS.values():
        arguments = " ".join(f"`{name}`" for name in fault.arguments)
        yield (
            f"| `{fault.name}` | {' '.join(sorted(fault.powers))} | {fault.default_target} | {arguments} "
            f"| {fault.says} |"
        )


def _promises() -> Iterable[tuple[str, str]]:
    yield "traffic", "Without faults, clients got at least as much done as the workload's floor says."
    yield "liveness", "When all is healed, every workload gets a write acknowledged and every call ends."
    for name, checker in checkers().items():
        yield name, checker.promises


def _work() -> Iterable[tuple[str, str]]:
    for name, workload in workloads().items():
        module = inspect.getmodule(workload)
        text = workload.__doc__ if workload.__dict__.get("__doc__") else module.__doc__ if module else ""
        yield name, " ".join((text or "").split("\n\n")[0].split())


def _rows(left: str, right: str, rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    yield f"| {left} | {right} |"
    yield "|---|---|"
    for name, words in rows:
        yield f"| `{name}` | {words} |"


def _found() -> Iterable[str]:
    found = load_all()
    if not found:
        yield "Nothing yet."
        return
    yield "Each was mended; its plan in `chaos/regress/`, or the test named, is played again and again."
    yield ""
    yield "| name | what it was | where | found by |"
    yield "|---|---|---|---|"
    for one in found:
        yield f"| `{one.name}` | {one.what} | `{one.where}` | {', '.join(one.found_by)} |"
