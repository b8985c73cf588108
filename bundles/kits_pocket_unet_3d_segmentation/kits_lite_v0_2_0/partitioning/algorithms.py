"""
Algorithm I of UNet-PWP (UNet-P): cut a network into sub-models by complexity, three ways.

    as_printed: the algorithm word for word. Walk along the layers and add up their costs; where the sum exceeds
        total / max_partitions, or the number of cuts exceeds max_partitions, cut before the layer and start again from
        0. The layer that a sub-model begins with is thus not counted in it. `max_complexity`, which the paper lists as
        an input, is used nowhere in the algorithm.
    as_published: the same with an off-by-one in the count of the cuts, cuts >= max_partitions - 1. From the
        (max_partitions - 1)th cut on every layer becomes a sub-model. This, and no other reading found, gives the
        17 rows of the paper's Table 2, for 4 partitions by parameters.
    balanced: ours. Exactly max_partitions sub-models of which the largest costs as little as any order-keeping cut
        allows, and among those cuts one that sends the fewest bytes. Exact, by dynamic programming.

Source: UNet-PWP, https://doi.org/10.3390/diagnostics13203244.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ..errors import InputError
from .layers import Layer

# and the measure of each: the paper's, and the one that decides how long a sub-model computes
RULES = {"as_printed": "parameters", "as_published": "parameters", "balanced": "flops"}
MEASURES = ("parameters", "flops", "flops_without_kernel_area", "activation_bytes")
BALANCED_ENOUGH = 1.15  # largest part / mean


@dataclass(frozen=True)
class Part:
    """
    One sub-model: its layers, their costs for one batch, and what it needs from the sub-models before.

    Args:
        layers: `first..last`, or the only one.
        received_bytes: of all tensors that come from other parts, the image not included.
        skip_bytes: of those among them that do not come from the layer just before.
        cumulative_parameters, cumulative_flops, cumulative_flops_without_kernel_area: of all layers so far, the
            last of them being the column "FLOPs" of the paper's Table 2.
    """

    layers: str
    parameters: int
    flops: int
    flops_without_kernel_area: int
    activation_bytes: int
    received_bytes: int
    skip_bytes: int
    cumulative_parameters: int
    cumulative_flops: int
    cumulative_flops_without_kernel_area: int


def partition(
    layers: Sequence[Layer],
    rule: str = "balanced",
    max_partitions: int = 4,
    measure: str | None = None,
    max_complexity: int | None = None,
) -> list[int]:
    """
    Cut a network into sub-models.

    Args:
        layers: see `measure_layers`.
        rule: `"as_printed"`, `"as_published"` or `"balanced"`, see the module's docstring. The first two may give more
            or fewer sub-models than `max_partitions`.
        measure: the cost of a layer, one of `MEASURES`; by default the rule's own, see `RULES`.
        max_complexity: with `"balanced"`, the most that a sub-model may cost.

    Returns:
        the position of every sub-model's first layer, rising from 0.

    Raises:
        InputError: for another rule, measure or number of partitions, or a maximum that cannot be kept.

    Example:
        >>> from .layers import measure_layers
        >>> from ..networks import LiteUNet
        >>> layers = measure_layers(LiteUNet())
        >>> [layers[start].name for start in partition(layers, "balanced", 3)]
        ['input', 'up6', 'up8']
    """
    if rule not in RULES:
        raise InputError(f"rule: expected one of {', '.join(RULES)}, found {rule}.")
    measure = measure or RULES[rule]
    if measure not in MEASURES:
        raise InputError(f"measure: expected one of {', '.join(MEASURES)}, found {measure}.")
    if not 1 <= max_partitions <= len(layers):
        raise InputError(f"max_partitions: expected 1 to {len(layers)}, the number of layers, found {max_partitions}.")
    costs = [getattr(layer, measure) for layer in layers]
    if rule == "balanced":
        starts = _balance(layers, costs, max_partitions)
        _check_maximum(layers, costs, starts, measure, max_complexity)
        return starts
    if max_complexity is not None:
        raise InputError(
            f"max_complexity: expected none, since Algorithm I never uses it; found {max_complexity} with rule {rule}."
        )
    most_cuts = max_partitions if rule == "as_printed" else max_partitions - 2
    return _walk(costs, sum(costs) / max_partitions, most_cuts)


def _walk(costs: Sequence[int], target: float, most_cuts: int) -> list[int]:
    starts, complexity = [0], 0
    for position, cost in enumerate(costs):
        complexity += cost
        if position > 0 and (complexity > target or len(starts) - 1 > most_cuts):
            starts.append(position)
            complexity = 0
    return starts


def _balance(layers: Sequence[Layer], costs: Sequence[int], number: int) -> list[int]:
    def cost(start: int, stop: int) -> float:
        return sum(costs[start:stop])

    largest, _ = _divide(len(layers), number, cost, max)

    def traffic(start: int, stop: int) -> float:
        return count_received(layers, start, stop)[0] if cost(start, stop) <= largest else float("inf")

    return list(_divide(len(layers), number, traffic, lambda a, b: a + b)[1])


def _divide(
    length: int, number: int, price: Callable[[int, int], float], combine: Callable[[float, float], float]
) -> tuple[float, tuple[int, ...]]:
    """
    The cheapest way to divide a sequence into non-empty runs, whose prices are combined.

    Returns:
        its price; the start of every run.
    """
    prices = {(start, stop): price(start, stop) for stop in range(length + 1) for start in range(stop)}
    best = {stop: (prices[0, stop], (0,)) for stop in range(1, length + 1)}
    for runs in range(2, number + 1):
        best = {
            stop: min(
                (combine(best[start][0], prices[start, stop]), (*best[start][1], start))
                for start in range(runs - 1, stop)
            )
            for stop in range(runs, length + 1)
        }
    return best[length]


def _check_maximum(
    layers: Sequence[Layer], costs: Sequence[int], starts: Sequence[int], measure: str, maximum: int | None
) -> None:
    largest = max(sum(costs[start:stop]) for start, stop in pair_up(starts, len(layers)))
    if maximum is None or largest <= maximum:
        return
    dearest = max(range(len(layers)), key=costs.__getitem__)
    if costs[dearest] > maximum:
        least = f"{costs[dearest]}, the {measure} of layer {layers[dearest].name}"
    else:
        least = f"{largest}, the least that the largest of {len(starts)} sub-models can cost in {measure}"
    raise InputError(f"max_complexity: expected at least {least}, found {maximum}.")


def pair_up(starts: Sequence[int], length: int) -> list[tuple[int, int]]:
    """(start, stop) of every sub-model."""
    return list(zip(starts, [*starts[1:], length]))


def count_received(layers: Sequence[Layer], start: int, stop: int) -> tuple[int, int]:
    """
    Bytes that layers start to stop need from those before: of all tensors, of the skips alone.

    A tensor that several layers read is received once. Every sub-model gets it straight from where it was made.
    """
    sources = {source for layer in layers[start:stop] for source in layer.sources if source < start}
    everything = sum(layers[source].activation_bytes for source in sources)
    return everything, sum(layers[source].activation_bytes for source in sources if source != start - 1)


def _name_layers(layers: Sequence[Layer], start: int, stop: int) -> str:
    return layers[start].name + (f"..{layers[stop - 1].name}" if stop - start > 1 else "")


def tabulate(layers: Sequence[Layer], starts: Sequence[int]) -> list[Part]:
    """The table of the sub-models that begin at some layers, one row each."""
    parts = []
    for start, stop in pair_up(starts, len(layers)):
        received, skips = count_received(layers, start, stop)
        parts.append(
            Part(
                layers=_name_layers(layers, start, stop),
                **{measure: sum(getattr(layer, measure) for layer in layers[start:stop]) for measure in MEASURES},
                received_bytes=received,
                skip_bytes=skips,
                **{
                    f"cumulative_{measure}": sum(getattr(layer, measure) for layer in layers[:stop])
                    for measure in MEASURES[:3]
                },
            )
        )
    return parts


def describe_balance(layers: Sequence[Layer], starts: Sequence[int], measure: str) -> str:
    """One line on the largest sub-model, and where it costs much more than the mean, on what the layers allow."""
    costs = [getattr(layer, measure) for layer in layers]
    sums = [sum(costs[start:stop]) for start, stop in pair_up(starts, len(layers))]
    largest, mean = max(sums), sum(sums) / len(sums)
    name = _name_layers(layers, *pair_up(starts, len(layers))[sums.index(largest)])
    line = f"largest sub-model: {name}, {largest:,} {measure}, {largest / mean:.2f} x the mean"
    if largest <= BALANCED_ENOUGH * mean:
        return line
    best = [_divide(len(layers), number, lambda a, b: sum(costs[a:b]), max)[0] for number in range(1, len(starts) + 1)]
    dearest = costs.index(max(costs))
    line += f"; whole layers in their order allow {best[-1] / mean:.2f} x"
    line += f" ({layers[dearest].name} alone is {costs[dearest] / mean:.2f} x the mean)"
    enough = 1 + next(number for number, cost in enumerate(best) if cost <= largest)
    return line if enough == len(starts) else f"{line}; {enough} sub-models need have no larger one"


def format_table(parts: Sequence[Part], more: Sequence[dict[str, object]] = ()) -> str:
    """
    Sub-models as lines of text.

    Args:
        more: further columns of every sub-model.
    """
    rows = [
        {"sub-model": number, **asdict(part), **extra}
        for number, (part, extra) in enumerate(zip(parts, more or [{}] * len(parts)), 1)
    ]
    heads = {name: name.replace("_", " ").replace("flops", "FLOPs") for name in rows[0]}
    # two lines a head keep the columns narrow
    cells = [[_fold(head)[0] for head in heads.values()], [_fold(head)[1] for head in heads.values()]]
    cells += [[f"{value:,}" if isinstance(value, int) else value for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths)).rstrip() for line in cells)


def _fold(head: str) -> tuple[str, str]:
    words = head.split()
    half = (len(words) + 1) // 2
    return " ".join(words[:half]), " ".join(words[half:])
