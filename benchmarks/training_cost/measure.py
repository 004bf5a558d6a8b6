"""Seconds and memory of the ways, side by side."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from benchmarks.training_cost import ways
from benchmarks.training_cost.shapes import Shape

Figures = dict[str, Any]


def measured(shape: Shape, device: torch.device, precision: str, repeats: int) -> Figures:
    """All of a shape: seconds by way, memory, and the ratios that they make."""
    gib = {way: _in_a_fresh_process(peak_gib, shape, device, precision, way) for way in ("joint_step", "naive_step")}
    batch = ways.random_batch(shape, device)
    families = {number: ways.training(shape, widths, device, precision) for number, widths in _families(shape).items()}
    difference = ways.gradient_difference(families[4], batch)
    timed: dict[str, Callable[[], object]] = {
        "matmul": _product(device, precision),
        "step": partial(ways.joint_step, families[4], batch),
        "naive": partial(ways.naive_step, families[4], batch),
        "ta_first": partial(ways.optimizer_step, families[4], batch, nested=False),
    }
    timed |= {f"nested_{number}": partial(ways.optimizer_step, each, batch) for number, each in families.items()}
    for width in shape.eight:
        alone = ways.training(shape, (width,), device, precision)
        timed[f"alone_{width}"] = partial(ways.optimizer_step, alone, batch)
    seconds = medians(timed, device, repeats)
    ratios = {
        "step_to_naive": seconds["step"] / seconds["naive"],
        "memory_to_naive": gib["joint_step"] / gib["naive_step"],
        "gradient_difference": difference,
    }
    for number, widths in _families(shape).items():
        apart = sum(seconds[f"alone_{width}"] for width in widths)
        nest_from = families[number].config.first_nested_step / families[number].config.steps
        run = nest_from * seconds["ta_first"] + (1 - nest_from) * seconds[f"nested_{number}"]
        ratios[f"run_to_apart_{number}"] = run / apart
    share, rates = _share(families[4], shape, device, seconds)
    return {
        "ratios": ratios | {f"matmul_share_{precision}": share},
        "seconds": seconds,
        "gib_above_weights": gib,
        "gflop_per_second": rates,
        "targets": families[4].num_targets,
        "passes_together": families[4].settings.together,
    }


def share_of_matmul(shape: Shape, device: torch.device, precision: str, repeats: int) -> tuple[float, Figures]:
    """What share of the rate of a large product a nested step of four sizes reaches, and both."""
    family, batch = ways.training(shape, shape.four, device, precision), ways.random_batch(shape, device)
    timed = {"matmul": _product(device, precision), "nested_4": partial(ways.optimizer_step, family, batch)}
    return _share(family, shape, device, medians(timed, device, repeats))


def medians(timed: Mapping[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """The median seconds of each, taken in turns. A first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, run in timed.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_gib(shape: Shape, device: torch.device, precision: str, way: str) -> float:
    """What a way takes at its peak above weights, gradients and batch. On a CPU: of resident memory, looked at every
    millisecond."""
    batch, family = ways.random_batch(shape, device), ways.training(shape, shape.four, device, precision)
    for parameter in family.ta.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run = partial(getattr(ways, way), family, batch)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    process, seen, done = psutil.Process(), [], threading.Event()

    def look() -> None:
        while not seen or not done.wait(0.001):
            seen.append(process.memory_info().rss)

    watch = threading.Thread(target=look)
    watch.start()
    run()
    done.set()
    watch.join()
    return (max(seen) - seen[0]) / 2**30


def _in_a_fresh_process(function: Callable[..., float], *arguments: Any) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _families(shape: Shape) -> dict[int, tuple[int, ...]]:
    return {4: shape.four, 8: shape.eight}


def _product(device: torch.device, precision: str) -> Callable[[], object]:
    size = _product_size(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return partial(torch.mm, *torch.randn(2, size, size, device=device, dtype=dtype))


def _product_size(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 2048


def _share(
    family: ways.Training, shape: Shape, device: torch.device, seconds: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    rates = {
        "matmul": 2 * _product_size(device) ** 3 / seconds["matmul"] / 1e9,
        "nested_4": ways.flops(family, shape) / seconds["nested_4"] / 1e9,
    }
    return rates["nested_4"] / rates["matmul"], rates


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
