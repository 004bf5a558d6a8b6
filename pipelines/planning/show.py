"""A plan in words and cells."""

from collections.abc import Iterator, Sequence

from components.report.formats import UNKNOWN, scaled
from pipelines.planning.memory import USABLE, Memory
from pipelines.planning.plan import Planner, Prices, StepPlan

COLUMNS = ("step", "tokens", "FLOPs", "GPUs", "time", "memory per GPU", "fits", "worker hours", "disk", "cost")


def rows(steps: Sequence[StepPlan], planner: Planner, prices: Prices) -> Iterator[tuple[str, ...]]:
    """A row per step that takes anything that is known, and their sum."""
    for step in steps:
        if step.seconds is not None:
            yield (
                step.name,
                scaled(step.tokens),
                scaled(step.flops),
                str(step.gpus or UNKNOWN),
                _time(step.seconds),
                *_memory(step, planner),
                _worker_hours(step.worker_seconds),
                scaled(step.disk_bytes, "B"),
                _money(prices.of(step)),
            )
    flops, seconds, workers, disk = (
        sum(getattr(step, name) or 0 for step in steps) for name in ("flops", "seconds", "worker_seconds", "disk_bytes")
    )
    cost = _money(sum(map(prices.of, steps)))
    yield ("in all", "", scaled(flops), "", _time(seconds), "", "", _worker_hours(workers), scaled(disk, "B"), cost)


def in_words(steps: Sequence[StepPlan], planner: Planner) -> Iterator[str]:
    """What the table has no room for: what each step's memory holds, and which steps are not in it."""
    for step in steps:
        if step.note:
            yield f"{step.name}: {step.note}"
        for memory, how in ((step.memory, "whole on each rank"), (step.sharded, "in shards")):
            if memory is not None:
                verdict = "fits" if memory.fits(planner.machine) else "does not fit"
                where = f" {how}" if step.sharded is not None else ""
                yield f"  memory{where}: {_parts(memory)}; {scaled(memory.total, 'B')}, {verdict}"
    if unknown := [step.name for step in steps if step.seconds is None]:
        yield f"not planned: {', '.join(unknown)}, which take minutes; --calibrate takes their time from a run"


def assumptions_in_words(planner: Planner, run: object) -> Iterator[str]:
    machine, assumed = planner.machine, planner.assumed
    yield (
        f"assumed: {machine.name} has {scaled(machine.peak_flops)}FLOP/s at most and "
        f"{scaled(machine.memory_bytes, 'B')}, of which {USABLE:.0%} can be used"
    )
    yield f"assumed: {assumed.training_mfu:.3g} of the peak in training, {assumed.forward_mfu:.3g} forward alone"
    for step, share in assumed.mfu_of_step.items():
        fixed = assumed.fixed_seconds.get(step)
        beyond = "" if fixed is None else f", and {fixed:.1f} s whatever its size"
        yield f"measured in {run}: {step} at {share:.3g} of the peak{beyond}"
    yield (
        f"{'measured' if run else 'assumed'}: {assumed.bytes_per_token:.3g} bytes of text per token, "
        f"{scaled(assumed.worker_bytes_per_second, 'B')} per second and Beam worker"
    )
    yield "not counted: what ranks say to one another (it lowers the share of the peak), start-up, waiting for nodes"


def _memory(step: StepPlan, planner: Planner) -> tuple[str, str]:
    """The memory of a rank that holds all, or of one that holds its shard where only that fits; and whether it does."""
    if step.memory is None:
        return UNKNOWN, UNKNOWN
    if step.sharded is None or step.memory.fits(planner.machine):
        return scaled(step.memory.total, "B"), "yes" if step.memory.fits(planner.machine) else "no"
    return scaled(step.sharded.total, "B"), "sharded" if step.sharded.fits(planner.machine) else "no"


def _parts(memory: Memory) -> str:
    return ", ".join(f"{name} {scaled(value, 'B')}" for name, value in vars(memory).items() if value)


def _time(seconds: float) -> str:
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (1e6, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 3600:,.0f} h"


def _worker_hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}" if seconds else UNKNOWN


def _money(value: float) -> str:
    return f"{value:,.2f}" if value else UNKNOWN
