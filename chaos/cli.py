"""The command line: `python -m chaos`. Draws plans, has them conducted, prints what came of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from chaos import layers, regressions
from chaos import plan as plans
from chaos.conduct import conduct, judged
from chaos.drawing import CannotPlay, draw, playable
from chaos.handbook import markdown
from chaos.judge import EXIT_STATUS, Judgement, Outcome
from chaos.plan import Plan
from chaos.report import HISTORY, OUTCOME_WORDS, PLAN, VERDICT, RunReport, load_verdict, replay_command
from chaos.report import write as write_report
from chaos.scenarios.registry import SCENARIOS
from chaos.shrink import shrink as shrink_plan
from chaos.sweep import Tally, directory_of, reason, sweep
from chaos.terminal import Terminal
from chaos.testbed import Layer
from gfs.errors import GfsError
from gfs.verification import history as histories

T = TypeVar("T")
LAYERS: tuple[Layer, ...] = ("sim", "toxi", "kernel")
_layer_option = click.option(
    "--layer", type=click.Choice(LAYERS), default="sim", show_default=True, help="What plays the plan."
)
_out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("chaos-runs"),
    show_default=True,
    help="Directory below which each run leaves its own.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Attack a cluster of gfs, and judge what it did.

    Exit status: 0 everything held, 1 a promise was broken, 2 undecided or too little traffic, 3 the run
    itself went wrong.
    """


@cli.command()
@click.option("--scenario", required=True, metavar="NAME", help="See 'list'; 'all' plays every one.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--minutes", type=float, default=1.0, show_default=True, help="Of faults.")
@_layer_option
@click.option("--masters", type=click.IntRange(1, 7), help="Instead of what the scenario would draw.")
@click.option("--servers", type=click.IntRange(1, 20), help="Chunk servers, likewise.")
@_out_option
def run(
    scenario: str,
    seed: int,
    minutes: float,
    layer: Layer,
    masters: int | None,
    servers: int | None,
    out: Path,
) -> None:
    """Play one scenario, or all.

    Example: python -m chaos run --scenario partition-leader --seed 42 --minutes 2
    """
    if scenario != "all":
        drawn = _draw(scenario, layer, seed, minutes * 60, masters, servers)
        sys.exit(_run_one(drawn, directory_of(out, drawn)))
    tally, skipped = Tally(), list[str]()
    for name in SCENARIOS:
        try:
            drawn = _draw(name, layer, seed, minutes * 60, masters, servers)
        except _Skipped as error:
            skipped.append(str(error))
            continue
        result = conduct(drawn, directory_of(out, drawn), Terminal())
        tally.add(drawn, result)
        click.echo(f"{name}: {result.outcome}" + ("" if result.outcome == "held" else f": {reason(result)}"))
    for text in skipped:
        click.echo(f"skipped: {text}")
    sys.exit(_conclude(tally))


@cli.command()
@click.option("--seeds", default="0:100", show_default=True, metavar="A:B", help="From A up to, not with, B.")
@click.option("--scenario", default="everything", show_default=True, metavar="NAME")
@click.option("--minutes", type=float, default=2.0, show_default=True, help="Of faults, in virtual time.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option(
    "--pace",
    type=click.FloatRange(1),
    help="Clients pause so many times as long between two calls. Default: what each seed draws.",
)
@_out_option
def sim(seeds: str, scenario: str, minutes: float, jobs: int, pace: float | None, out: Path) -> None:
    """Play many seeds in the simulation.

    Most of the time that a run takes goes into its clients' calls: with fewer of them a second, the same
    faults are played in less time.

    Example: python -m chaos sim --seeds 0:200 --jobs 2 --pace 20
    """
    first, last = _seeds(seeds)
    _refuse_unknown(scenario)
    drawn = (_paced(_draw(scenario, "sim", seed, minutes * 60), pace) for seed in range(first, last))
    sys.exit(_sweep(drawn, out, jobs, total=last - first))


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--scenario", metavar="NAME", help="Play this, in the simulation, instead of each bug's trial.")
@click.option("--seeds", default="0:3", show_default=True, metavar="A:B", help="Of the scenario.")
@click.option("--minutes", type=float, default=0.5, show_default=True, help="Of faults in each run of it.")
def planted(names: tuple[str, ...], scenario: str | None, seeds: str, minutes: float) -> None:
    """Plant bugs, one at a time, and say by what each is noticed; without NAME all of them.

    The bugs' own trials are tests: they need a source tree. Exit status 1 when nobody notices one.

    Example: python -m chaos planted ack-before-log-sync stale-replica-served
    """
    if scenario is not None:
        sys.exit(_planted_in_scenario(names, scenario, seeds, minutes * 60))
    tree = Path(__file__).parent.parent
    if not (tree / "tests" / "chaos" / "planted").is_dir():
        raise click.ClickException(f"{tree} holds no tests/chaos/planted: run this in a source tree")
    command = [sys.executable, "-m", "tests.chaos.planted", *names]
    sys.exit(subprocess.run(command, cwd=tree).returncode)


def _planted_in_scenario(names: tuple[str, ...], scenario: str, seeds: str, seconds: float) -> int:
    from chaos.planted.all_bugs import BUGS
    from chaos.planted.playing import first_that_notices, words

    _refuse_unknown(scenario)
    if unknown := [name for name in names if name not in BUGS]:
        raise click.UsageError(f"no planted bug {', '.join(unknown)}; there are {', '.join(BUGS)}")
    logging.disable(logging.CRITICAL)  # what a broken product complains of is no news here
    first, last = _seeds(seeds)
    missed = 0
    for name in names or BUGS:
        found = first_that_notices(BUGS[name], SCENARIOS[scenario], range(first, last), fault_seconds=seconds)
        missed += found is None
        click.echo(f"{name}: " + ("NOT NOTICED" if found is None else f"seed {found.seed}, {words(found)}"))
    return 1 if missed else 0


@cli.command()
@click.option("--hours", type=float, default=1.0, show_default=True, help="Of real time.")
@click.option("--resume", is_flag=True, help="Go on with the seed after the last one that was played.")
@click.option("--scenario", default="everything", show_default=True, metavar="NAME")
@click.option("--minutes", type=float, default=2.0, show_default=True, help="Of faults in each run.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True)
@_layer_option
@_out_option
def soak(
    hours: float, resume: bool, scenario: str, minutes: float, jobs: int, layer: Layer, out: Path
) -> None:
    """Play one seed after the other for hours; what came of it is kept, and can be gone on with.

    Example: python -m chaos soak --hours 8 --resume
    """
    from chaos.soak import Soak

    _refuse_unknown(scenario)
    if layer != "sim" and jobs > 1:
        raise click.UsageError("real processes would disturb each other: --jobs is for the simulation")
    slice_ = Soak.resumed(out) if resume else Soak.begun(out)
    drawn = (_draw(scenario, layer, seed, minutes * 60) for seed in slice_.seeds(hours))
    terminal = Terminal()
    for plan, result in sweep(drawn, out, jobs=jobs):
        slice_.add(plan, result)
        terminal.shows(slice_.tally().summary())
        if result.outcome != "held":
            terminal.says(f"{plan.scenario} seed {plan.seed}: {result.outcome}: {reason(result)}")
    sys.exit(_conclude(slice_.tally()))


@cli.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Default: DIRECTORY-replay.")
def replay(directory: Path, out: Path | None) -> None:
    """Play the plan of an earlier run (or a plan file, perhaps edited) again."""
    path = directory / PLAN if directory.is_dir() else directory
    default = directory.with_name(f"{directory.stem}-replay")
    sys.exit(_run_one(_readable(plans.load, path), out or default))


@cli.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def check(directory: Path) -> None:
    """Judge an earlier run by today's checkers; its verdict and report are written anew."""
    plan, history = _readable(plans.load, directory / PLAN), _readable(histories.load, directory / HISTORY)
    judgement = _rejudged(plan, history, directory)
    before = _readable(load_verdict, directory) if (directory / VERDICT).exists() else None
    result = RunReport(
        outcome=judgement.outcome,
        scenario=plan.scenario,
        seed=plan.seed,
        layer=plan.layer,
        verdicts=judgement.verdicts,
        faults_begun=before.faults_begun if before else {},
        faults_not_begun=before.faults_not_begun if before else {},
        operations=before.operations if before else {},
        last_writes=before.last_writes if before else {},
        remarks=before.remarks if before else (),
        real_seconds=before.real_seconds if before else 0.0,
        run_seconds=before.run_seconds if before else 0.0,
    )
    write_report(directory, plan, history, result)
    sys.exit(_print_result(result, str(directory)))


@cli.command()
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
@click.option("--tries", type=click.IntRange(1, 2000), default=150, show_default=True)
@click.option("--name", help="Keep it under chaos/regress by this name.")
@click.option("--what", default="", help="What was wrong, in a sentence.")
@click.option("--where", default="", help="The module of gfs it was in.")
def shrink(directory: Path, tries: int, name: str | None, what: str, where: str) -> None:
    """Make the plan of a failing run smaller while the same checker still finds it.

    Example: python -m chaos shrink chaos-runs/sim-everything-17 --name lost-rename
    """
    plan = _readable(plans.load, directory / PLAN if directory.is_dir() else directory)
    terminal = Terminal()
    first = conduct(plan, None)
    culprits = {verdict.checker for verdict in first.verdicts if verdict.finding == "violated"}
    if not culprits:
        terminal.says(f"this plan does not fail: {first.outcome} {reason(first)}")
        sys.exit(EXIT_STATUS["undecided"])

    def fails(smaller: Plan) -> bool:
        result = conduct(smaller, None)
        return any(v.finding == "violated" and v.checker in culprits for v in result.verdicts)

    smallest = shrink_plan(plan, fails, tries_max=tries, says=terminal.says)
    for line in plans.describe(smallest):
        click.echo(line)
    found_by = tuple(sorted(culprits))
    if name:
        kept = regressions.Regression(name=name, what=what, where=where, found_by=found_by, plan=smallest)
        click.echo(f"kept: {regressions.save(kept)}")
    else:
        beside = (directory if directory.is_dir() else directory.parent) / "plan-small.json"
        plans.save(smallest, beside)
        click.echo(f"Replay: {replay_command(str(beside))}")
    sys.exit(EXIT_STATUS["violated"])


@cli.command()
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True)
@_out_option
def regress(jobs: int, out: Path) -> None:
    """Play every plan that once showed a fault of the product; each must hold."""
    found = [one for one in _readable(regressions.load_all, regressions.DIRECTORY) if one.plan is not None]
    playable_plans = []
    for one in found:
        assert one.plan is not None
        try:
            _refuse_unplayable(one.plan)
        except _Skipped as error:
            click.echo(f"skipped: {one.name}: {error}")
        else:
            playable_plans.append(one.plan)
    sys.exit(_sweep(iter(playable_plans), out, jobs, total=len(playable_plans)))


@cli.command(name="list")
@click.option("--markdown", "as_markdown", is_flag=True, help="The whole of chaos/README.md.")
def list_(as_markdown: bool) -> None:
    """List the scenarios, and on which layers this machine can play them."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    width = max(len(name) for name in SCENARIOS)
    reasons: dict[str, None] = {}
    for scenario in SCENARIOS.values():
        can = []
        for layer in scenario.layers:
            try:
                playable(scenario, layer, layers.entry(layer).powers)
            except (CannotPlay, layers.NoSuchLayer) as error:
                reasons[str(error)] = None
            else:
                can.append(layer)
        click.echo(f"{scenario.name:{width}}  {','.join(can) or '-':16}  {scenario.says}")
    for text in reasons:
        click.echo(f"not here: {text}")


@cli.command()
def failpoints() -> None:
    """List where programs can be told to die: each failpoint, by program, and the module that passes it.

    Scenarios arm them (fault 'kill-at'); by hand: GFS_FAILPOINTS="NAME=kill@3" in a program's environment.

    Example: python -m chaos failpoints
    """
    from chaos.failpoints import places

    found = places()
    width = max(len(place.failpoint) for place in found)
    program = ""
    for place in found:
        if place.program != program:
            program = place.program
            click.echo(f"{program}:")
        click.echo(f"  {place.failpoint:{width}}  {place.module}")


@cli.command()
@click.option("--install", is_flag=True, help="Get what can be got without the system: the Toxiproxy server.")
@click.option("--clean", is_flag=True, help="Remove what killed runs of layer kernel have left behind.")
def tools(install: bool, clean: bool) -> None:
    """Say what each layer can do on this machine, and why not the rest.

    --install builds the real Toxiproxy server with Go into .tools, or where GFS_CHAOS_TOOLS says; without it
    layer toxi uses a stand-in of its own, and its reports say so.

    --clean removes namespaces, mounts, rules, control groups and programs of runs that were killed.
    """
    from chaos.kernel import machine
    from chaos.kernel import tools as kernel
    from chaos.toxiproxy import tools as toxiproxy

    if clean:
        found = machine.clean()
        click.echo("\n".join(found) if found else "nothing was left behind")
        return

    if install:
        try:
            click.echo(f"Toxiproxy server: {toxiproxy.install_server()}")
        except toxiproxy.CannotInstall as error:
            click.echo(f"not installed: {error}")
            sys.exit(EXIT_STATUS["harness"])
    elif why := toxiproxy.why_no_server():
        click.echo(why)
    for layer in LAYERS:
        try:
            entry = layers.entry(layer)
        except layers.NoSuchLayer as error:
            click.echo(f"{layer}: not here: {error}")
            continue
        click.echo(f"{layer}: {', '.join(sorted(entry.powers)) or 'nothing'}")
        for power, why in sorted(entry.missing.items()):
            click.echo(f"  not {power or 'at all'}: {why}")
    for tool in kernel.tools():
        state = f"not here: {tool.why_not}" if tool.why_not else "works"
        click.echo(f"kernel tool {tool.name} ({tool.gives}): {state}")
        if tool.why_not and tool.install:
            click.echo(f"  it comes with {tool.install}")


# --- the work behind the commands -----------------------------------------------------------------


class _Skipped(click.ClickException):
    """This machine or layer cannot play it."""

    exit_code = EXIT_STATUS["undecided"]


class _Unreadable(click.ClickException):
    exit_code = EXIT_STATUS["harness"]


def _draw(
    name: str,
    layer: Layer,
    seed: int,
    seconds: float,
    masters: int | None = None,
    servers: int | None = None,
) -> Plan:
    _refuse_unknown(name)
    if seconds < 5:
        raise click.UsageError("the faults of a run take at least 5 seconds (--minutes 0.1)")
    try:
        scenario = playable(SCENARIOS[name], layer, layers.entry(layer).powers)
    except (CannotPlay, layers.NoSuchLayer) as error:
        raise _Skipped(str(error)) from error
    return draw(
        scenario, seed=seed, layer=layer, fault_seconds=seconds, masters=masters, chunkservers=servers
    )


def _paced(plan: Plan, pace: float | None) -> Plan:
    if pace is None:
        return plan
    return msgspec.structs.replace(plan, configuration=msgspec.structs.replace(plan.configuration, pace=pace))


def _rejudged(plan: Plan, history: histories.History, directory: Path) -> Judgement:
    of, wanted = history.header, (plan.layer, plan.scenario, plan.seed)
    if (of.layer, of.scenario, of.seed) != wanted:
        raise _Unreadable(
            f"{directory / HISTORY} is of {of.scenario or 'no scenario'}, seed {of.seed}, layer "
            f"{of.layer or 'unknown'}, and {directory / PLAN} of {plan.scenario}, seed {plan.seed}, layer "
            f"{plan.layer}: they belong to two runs"
        )
    try:
        return judged(plan, history)
    except GfsError as error:
        raise _Unreadable(error.message) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _Unreadable(
            f"{directory / HISTORY} holds values of the wrong kind: it is damaged, or not of this program "
            f"({error})"
        ) from error


def _refuse_unknown(name: str) -> None:
    if name not in SCENARIOS:
        raise click.UsageError(f"no scenario is called {name!r}; 'python -m chaos list' shows all")


def _refuse_unplayable(plan: Plan) -> None:
    from chaos.faults.registry import FAULTS

    try:
        powers = layers.entry(plan.layer).powers
    except layers.NoSuchLayer as error:
        raise _Skipped(str(error)) from error
    missing = {power for step in plan.steps for power in FAULTS[step.fault].powers} - powers
    if missing:
        raise _Skipped(f"layer {plan.layer} cannot do here: {', '.join(sorted(missing))}")


def _run_one(plan: Plan, directory: Path) -> int:
    terminal = Terminal()
    for line in plans.describe(plan):
        terminal.says(line)
    _refuse_unplayable(plan)
    return _print_result(conduct(plan, directory, terminal), str(directory))


def _print_result(result: RunReport, directory: str) -> int:
    for verdict in result.verdicts:
        words = f"{verdict.checker}: {verdict.finding} ({verdict.judged} facts)"
        click.echo(words + (f": {verdict.remark}" if verdict.remark else ""))
        for violation in verdict.violations[:5]:
            click.echo(f"    {violation.says}")
    for remark in result.remarks:
        click.echo(f"note: {remark}")
    if result.harness_error:
        click.echo(f"the run went wrong: {result.harness_error}")
    click.echo(f"{OUTCOME_WORDS[result.outcome]} Report: {directory}/report.md")
    click.echo(replay_command(directory))
    return EXIT_STATUS[result.outcome]


def _sweep(drawn: Iterator[Plan], out: Path, jobs: int, *, total: int) -> int:
    tally, terminal = Tally(), Terminal()
    for plan, result in sweep(drawn, out, jobs=jobs):
        tally.add(plan, result)
        terminal.shows(f"{sum(tally.outcomes.values())} of {total}: {tally.summary()}")
        if result.outcome != "held":
            terminal.says(f"{plan.scenario} seed {plan.seed}: {result.outcome}: {reason(result)}")
            terminal.says(f"    {replay_command(str(directory_of(out, plan)))}")
    terminal.says("")
    return _conclude(tally)


def _conclude(tally: Tally) -> int:
    for line in tally.not_held:
        click.echo(line)
    click.echo(tally.summary())
    order: Sequence[Outcome] = ("violated", "harness", "undecided")
    return next((EXIT_STATUS[outcome] for outcome in order if tally.outcomes[outcome]), 0)


def _seeds(text: str) -> tuple[int, int]:
    first, separator, last = text.partition(":")
    try:
        a, b = int(first), int(last) if separator else int(first) + 1
    except ValueError:
        raise click.UsageError(f"--seeds {text!r}: expected A:B, or one number") from None
    if not a < b:
        raise click.UsageError(f"--seeds {text!r} names none")
    return a, b


def _readable(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except GfsError as error:
        raise _Unreadable(error.message) from error
    except OSError as error:
        raise _Unreadable(f"cannot read {path}: {error.strerror}") from error


def main() -> None:
    cli(prog_name="python -m chaos")
