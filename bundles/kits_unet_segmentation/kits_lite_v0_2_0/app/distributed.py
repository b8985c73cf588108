"""Segment images with a bundle folder by several processes, to the files that one process writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from ..bundle_folder import build_on_meta, open_bundle, read_slice_size
from ..errors import InputError, describe_failure
from ..files import PathLike, hash_file
from ..kits.cases import check_output, find_cases
from ..partitioning.algorithms import partition
from ..partitioning.distributed import DistributedNetwork, PipelinedNetwork, SharedNetwork
from ..partitioning.layers import measure_layers
from ..partitioning.processes import agree, gather, is_loss
from .folder import segment_to_folder
from .segmenter import Segmenter

MODES = ("pipeline", "data")


@dataclass(frozen=True)
class Plan:
    """
    How the work is spread.

    Args:
        mode: `"pipeline"` or `"data"`, see `distributed`; in data mode every rank takes whole cases, or where there are
            fewer cases than ranks, its share of their slices.
        rule, measure, max_partitions: of the pipeline's sub-models, see `partition`; by default one for every rank.
        micro_batches: batches of slices that are in the pipeline at once.
        batch_size: slices in the pipeline at once; by default as many as keep the micro-batches at the bundle's
            batch size, which a single process uses. Other micro-batches may differ from it in the last bits.
    """

    mode: str = "pipeline"
    rule: str = "balanced"
    measure: str | None = None
    max_partitions: int | None = None
    micro_batches: int = 4
    batch_size: int | None = None


def segment_distributed(
    bundle: PathLike,
    source: PathLike,
    output_dir: Path,
    plan: Plan,
    progress: Callable[[Iterable], Iterable] = iter,
    **options: object,
) -> tuple[int, list[str]]:
    """
    Segment the cases of a folder, in every process that `join_processes` joined, see `segment_to_folder`.

    Args:
        source: see `find_cases`.
        progress: wraps the cases that this process writes.
        options: of the `Segmenter`.

    Returns:
        number of cases; of every case that was not segmented, what is wrong with it. The same in every rank.

    Raises:
        InputError: in rank 0, when an argument is wrong or ranks have different weights; the others exit silently.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    cases = agree(lambda: find_cases(source))
    agree(lambda: check_output(output_dir, source, cases))
    segmenter, network = agree(lambda: _set_up(bundle, plan, len(cases), options))
    weights = gather(hash_file(open_bundle(bundle).get_parsed_content("weights")))
    agree(lambda: _check_same(weights))
    problems: list[str] = []
    if network is None:
        problems = _segment(segmenter, progress(cases[rank::world]), output_dir)
    elif rank == 0:
        problems = _segment(segmenter, progress(cases), output_dir)
        network.dismiss()
    else:
        network.serve()
    return len(cases), [problem for share in gather(problems) for problem in share]


def _set_up(
    bundle: PathLike, plan: Plan, cases: int, options: Mapping[str, object]
) -> tuple[Segmenter | None, DistributedNetwork | None]:
    """What this rank needs: a segmenter where it writes files, a network where one is computed together."""
    if plan.mode not in MODES:
        raise InputError(f"mode: expected one of {', '.join(MODES)}, found {plan.mode}.")
    rank, world = dist.get_rank(), dist.get_world_size()
    if len(read_slice_size(bundle)) != 2 and (plan.mode == "pipeline" or cases < world):
        found = f"{plan.mode} with {cases} cases and {world} processes"
        raise InputError(f"mode: expected data, and a case or more a process, with a 3-D network, found {found}.")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    options = {"device": str(device), "backend": "torch", **options}
    config = open_bundle(bundle)
    if plan.mode == "pipeline":
        network, in_flight = _set_up_pipeline(bundle, plan, device)
    else:
        segmenter = Segmenter(bundle, **options)
        if cases >= world:
            return segmenter, None
        network, in_flight = (
            SharedNetwork(segmenter.network, config["batch_size"], device),
            world * config["batch_size"],
        )
    if rank:
        return None, network
    segmenter = Segmenter(bundle, network=network, **options)
    segmenter.inferer.batch_size = in_flight
    return segmenter, network


def _set_up_pipeline(bundle: PathLike, plan: Plan, device: torch.device) -> tuple[PipelinedNetwork, int]:
    """The pipeline and the slices that are in it at once."""
    world = dist.get_world_size()
    config = open_bundle(bundle)
    if plan.micro_batches < 1:
        raise InputError(f"micro_batches: expected a positive number, found {plan.micro_batches}.")
    in_flight = plan.micro_batches * config["batch_size"] if plan.batch_size is None else plan.batch_size
    if in_flight < plan.micro_batches or in_flight % plan.micro_batches:
        raise InputError(
            f"batch_size: expected a multiple of the {plan.micro_batches} micro-batches, found {in_flight} slices."
        )
    network = build_on_meta(bundle)
    layers = measure_layers(network, (1, network.arguments["in_channels"], *read_slice_size(bundle)))
    number = world if plan.max_partitions is None else plan.max_partitions
    starts = partition(layers, plan.rule, number, plan.measure)
    weights = config.get_parsed_content("weights")
    return PipelinedNetwork(network, starts, Path(weights), in_flight // plan.micro_batches, device), in_flight


def _check_same(weights: list[str]) -> None:
    if len(set(weights)) > 1:
        raise InputError(f"weights: expected the same file for every rank, found {len(set(weights))} different ones.")


def _segment(segmenter: Segmenter, cases: Iterable[Mapping[str, str]], output_dir: Path) -> list[str]:
    """Segment cases to a folder; gives what is wrong with those that cannot be."""
    problems = []
    for case in cases:
        try:
            segment_to_folder(segmenter, case, output_dir)
        except Exception as error:
            if is_loss(error):
                raise
            problems.append(describe_failure(case["case"], error))
    return problems
