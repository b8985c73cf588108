"""
The command line, one door to all that ships: `kits-lite segment | score | check | export | prune | partition | info`.

`python -m common` in a checkout and `python -m kits_lite_v...` in a bundle's folder are the same; there `--bundle` is
that bundle by default. What takes seconds to import is imported inside the commands, so that `--help` comes at once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, report_input_errors, report_warnings, tell_failure

if TYPE_CHECKING:
    from .pruned import PrunedBundle

app = typer.Typer(
    help="Segment kidneys and kidney tumours in CT with small networks. Research only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
# the folder of the bundle whose copy this is
OWN_BUNDLE = Path(__file__).parents[2]
DEFAULT_BUNDLE = str(OWN_BUNDLE) if (OWN_BUNDLE / "configs/inference.json").is_file() else ...

Bundle = Annotated[Path, typer.Option("--bundle", "-b", help="Bundle folder, or the name of one in bundles/.")]
Images = Annotated[
    Path, typer.Option("--input", "-i", help="NIfTI or NRRD image, folder of images, KiTS folder or DICOM series.")
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print where every error came from.")]
DatasetDir = Annotated[Path | None, typer.Option("--dataset-dir", help="KiTS folder.")]
SEVERAL = "Several processes, started by torchrun"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        arguments: words as typed; by default those of this process.

    Returns:
        the exit code.

    Raises:
        InputError: when something that the user gave is wrong; uncaught, it is one line and exit code 1.
    """
    report_input_errors()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file may be anything
    try:
        # not app(): it puts an excepthook of its own in place
        typer.main.get_command(app).main(arguments and list(arguments))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == __package__.partition(".")[0]:
            raise
        extra = "dicom" if package in ("itk", "pydicom", "highdicom") else "torch"
        raise InputError(
            f"{package}: expected this package to be installed, found none; pip install 'kits-lite[{extra}]'."
        ) from error
    except SystemExit as end:
        if isinstance(end.code, str):  # the words of a process that stops because another is lost
            raise
        return end.code or 0
    return 0


@app.command()
def segment(
    images: Images,
    output: Folder,
    bundle: Bundle = DEFAULT_BUNDLE,
    report: Annotated[bool, typer.Option("--report", help="Write a page per case, and index.html.")] = False,
    report_json: Annotated[bool, typer.Option("--report-json", help="Write <case>.json, and run.json.")] = False,
    output_format: Annotated[
        list[str] | None,
        typer.Option(help="Beside NIfTI: seg.nrrd, dicom-seg or dicom-sr; may be given several times."),
    ] = None,
    doubt: Annotated[
        bool, typer.Option("--doubt", help="Segment mirrored, too, and report by how much it differs.")
    ] = False,
    keep_largest: Annotated[int | None, typer.Option(help="Pieces that stay, 0 for all; by default 2 a scan.")] = None,
    min_volume_ml: Annotated[float | None, typer.Option(help="Remove connected pieces that are smaller.")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Average with the mirrored image: better, and slower.")
    ] = None,
    fast: Annotated[
        bool | None, typer.Option("--fast/--no-fast", help="Not every slice, see the docs: can miss small findings.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnxruntime or openvino; by default openvino on a CPU that has it.")
    ] = None,
    exported: Annotated[str | None, typer.Option(help="File that export wrote; by default exported at need.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="f32 or bf16; by default bf16 with openvino on a CPU that computes in it.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="UID of the DICOM series, where there are several.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share cores and cases.")] = None,
    debug: Debug = False,
    mode: Annotated[
        str | None,
        typer.Option(help="pipeline, the default there, or data.", rich_help_panel=SEVERAL),
    ] = None,
    rule: Annotated[str, typer.Option(help="How the pipeline's network is cut.", rich_help_panel=SEVERAL)] = "balanced",
    measure: Annotated[str | None, typer.Option(help="What a layer costs.", rich_help_panel=SEVERAL)] = None,
    max_partitions: Annotated[int | None, typer.Option(help="Sub-models.", rich_help_panel=SEVERAL)] = None,
    micro_batches: Annotated[int, typer.Option(help="In the pipeline at once.", rich_help_panel=SEVERAL)] = 4,
    batch_size: Annotated[int | None, typer.Option(help="Slices in it at once.", rich_help_panel=SEVERAL)] = None,
) -> None:
    """Write <case>.nii.gz, a label map on the image's own grid, for every image; a second run goes on."""
    from ..kits.cases import check_output, find_cases
    from .folder import Outputs, open_segmenter, segment_case

    report_warnings()
    options = {"series": series, "keep_largest": keep_largest, "min_volume_ml": min_volume_ml}
    options |= {"mirror": mirror, "fast": fast}
    outputs = Outputs(tuple(output_format or ["nifti"]), report, report_json)
    if doubt and not outputs.described:
        raise InputError("doubt: expected together with --report or --report-json, found neither.")
    mode = mode or ("pipeline" if "TORCHELASTIC_RUN_ID" in os.environ else None)
    if mode is not None:
        from .distributed import Plan

        if (
            outputs != Outputs()
            or device
            or exported
            or workers
            or backend not in (None, "torch")
            or precision not in (None, "f32")
        ):
            raise InputError(
                "mode: expected no report, device, exported file, workers or other output or backend, found one."
            )
        plan = Plan(mode, rule, measure, max_partitions, micro_batches, batch_size)
        return _segment_distributed(bundle, images, output, plan, options)
    cases = find_cases(images)
    check_output(output, images, cases)
    options |= {"device": device, "backend": backend, "exported": exported, "precision": precision}
    options |= {"doubt": True} if doubt else {}
    if workers is None:
        segmenter = open_segmenter(bundle, outputs, **options)
        outcomes = [segment_case(segmenter, case, output, outputs, debug) for case in _show_progress(cases)]
    else:
        from .workers import segment_by_workers

        done = segment_by_workers(bundle, cases, output, workers, outputs, debug, **options)
        outcomes = [outcome for outcome, _ in zip(done, _show_progress(cases))]
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if rows := [outcome.row for outcome in outcomes if outcome.row]:
        from .report import write_index

        write_index(output / "index.html", rows)
    if report_json:
        from ..bundle_path import find_bundle
        from .case_report import make_manifest, write_json

        entries = [outcome.entry for outcome in outcomes if outcome.entry]
        write_json(output / "run.json", make_manifest(find_bundle(bundle), entries, problems))
    _finish(output, len(cases), problems)


def _segment_distributed(bundle: Path, images: Path, output: Path, plan: object, options: Mapping) -> None:
    from ..partitioning.processes import join_processes
    from .distributed import segment_distributed

    with join_processes(output) as (rank, _):
        progress = iter if rank else _show_progress
        count, problems = segment_distributed(bundle, images, output, plan, progress, **options)
    if rank == 0:
        _finish(output, count, problems)


def _show_progress(cases: Iterable) -> Iterable:
    """The cases, with a bar where somebody watches."""
    from tqdm import tqdm

    return tqdm(cases, unit="case", disable=None)


def _finish(output: Path, count: int, problems: Sequence[str]) -> None:
    """Print what was done, and end with exit code 1 where there are problems."""
    print(f"{count - len(problems)} of {count} cases segmented to {output}")
    _tell(problems)


def _tell(problems: Sequence[str]) -> None:
    """Print a line for each problem; with any, the exit code is 1."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


@app.command()
def score(
    labels: Annotated[Path, typer.Option("--labels", "-l", help="KiTS folder, or folder of <case>.nii.gz.")],
    predictions: Annotated[Path, typer.Option("--predictions", "-p", help="The same.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file for the scores of every case.")],
    protocol: Annotated[str, typer.Option(help="kits19 or kits23.")] = "kits19",
    debug: Debug = False,
) -> None:
    """Score label maps by an official KiTS protocol: a row per case, then means, intervals and the worst cases."""
    from ..files import check_output_file
    from ..kits.metrics import find_protocol
    from ..kits.scores import describe_summary, pair_label_maps, score_files, summarize_cases, write_table

    chosen = find_protocol(protocol)
    report_warnings()
    pairs, problems = pair_label_maps(labels, predictions)
    check_output_file(output, [labels, predictions, *sum(pairs.values(), ())])
    scored = []
    for case, paths in _show_progress(pairs.items()):
        try:
            scored.append(score_files(case, *paths, chosen))
        except Exception as error:
            problems.append(tell_failure(case, error, debug))
    if scored:
        rows, counts = zip(*scored)
        write_table(rows, output)
        print("\n".join(describe_summary(summarize_cases(rows, counts, chosen))))
    _tell(problems)


@app.command()
def check(images: Images, debug: Debug = False) -> None:
    """Check cases before training or segmenting: files whole, pairs alike, labels known, Hounsfield units."""
    from ..kits.cases import find_cases, read_case, read_image
    from ..kits.hu_findings import find_hu_problems
    from ..kits.volumes import open_volume

    report_warnings()
    cases = find_cases(images)
    unlabelled = [case for case in cases if "label" not in case]
    problems = []
    for case in _show_progress(cases):
        try:
            read_case(case) if "label" in case else read_image(case)
            for problem in find_hu_problems(open_volume(case["image"])):
                warnings.warn(f"{case['image']}: {problem}.", stacklevel=1)
        except Exception as error:
            problems.append(tell_failure(case["case"], error, debug))
    # KiTS19 has 210 cases with a label and 90 without
    without = f", {len(unlabelled)} without a label" if 0 < len(unlabelled) < len(cases) else ""
    print("\n".join([*(f"error: {p}" for p in problems), f"{len(cases)} cases, {len(problems)} bad{without}"]))
    if problems:
        raise typer.Exit(1)


@app.command()
def export(
    output: Folder,
    format: Annotated[str, typer.Option("--format", help="torchscript, pt2, onnx or openvino.")],
    bundle: Bundle = DEFAULT_BUNDLE,
    precision: Annotated[str, typer.Option(help="f32, or int8 with openvino.")] = "f32",
    dataset_dir: Annotated[
        Path | None, typer.Option("--dataset-dir", help="Images, without labels, to calibrate int8 with.")
    ] = None,
) -> None:
    """Export the network of a bundle, with its weights, to TorchScript, torch.export, ONNX or OpenVINO."""
    from ..runtimes.export import export_bundle
    from ..runtimes.quantize import INT8, check_int8, export_int8

    check_int8(format, precision, dataset_dir)
    if precision == INT8:
        print(export_int8(bundle, dataset_dir, output))
    else:
        print(export_bundle(bundle, format, output))


@app.command()
def prune(
    method: Annotated[str, typer.Option(help="magnitude, sigma or channel.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New bundle folder, ending in _segmentation.")],
    bundle: Bundle = DEFAULT_BUNDLE,
    amount: Annotated[float | None, typer.Option(help="Share of weights or channels; for sigma, deviations.")] = None,
    channels: Annotated[str | None, typer.Option(help="Width of every level, such as 16,32,64,128,256.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="sigma: compare as the paper prints it.")] = False,
    importance: Annotated[str, typer.Option(help="channel: l1, batchnorm or taylor.")] = "l1",
    finetune_epochs: Annotated[int, typer.Option(help="Prune while training so long.")] = 0,
    coarse_epochs: Annotated[int, typer.Option(help="Before that, at half the slice size.")] = 0,
    dataset_dir: DatasetDir = None,
    split_file: Annotated[str | None, typer.Option(help="Cases to train and validate on.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the fine-tuning; else train.json's.")] = None,
) -> None:
    """Prune a bundle's network, fine-tune it where asked, and write a complete new bundle around it."""
    from .pruned import Finetuning, Pruning, read_channels, write_pruned_bundle

    if (amount is None) == (channels is None):
        raise InputError("amount: expected --amount or, for method channel, --channels; found both or neither.")
    widths = None if channels is None else read_channels(channels)
    pruning = Pruning(method, amount or 0.0, signed, importance, widths)
    finetuning = Finetuning(finetune_epochs, coarse_epochs) if finetune_epochs else None
    given = {"split_file": split_file, "learning_rate": learning_rate}
    options = {key: value for key, value in given.items() if value}
    print_pruned(write_pruned_bundle(bundle, output, pruning, finetuning, dataset_dir, options))


def print_pruned(pruned: PrunedBundle) -> None:
    """Print where the zeros are and what was saved."""
    for layer in pruned.layers:
        print(f"{layer.name:32}{layer.zeros:>14,} of {layer.weights:>12,} zero{layer.sparsity:>9.1%}")
    print(f"\n{'':24}{'original':>18}{'before':>18}{'after':>18}")
    costs = (pruned.before, pruned.after)
    rows = {
        "parameters": [f"{value:,}" for value in (pruned.original["parameters"], *(c.parameters for c in costs))],
        "non-zero parameters": ["", *(f"{c.nonzero_parameters:,}" for c in costs)],
        "zeros": ["", *(f"{1 - c.nonzero_parameters / c.parameters:.1%}" for c in costs)],
        "FLOPs": [f"{value:,}" for value in (pruned.original["flops"], *(c.flops for c in costs))],
        "bytes of the weights": ["", *(f"{c.file_bytes:,}" for c in costs)],
    }
    for name, cells in rows.items():
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"\n{pruned.folder}")


@app.command()
def partition(
    bundle: Bundle = DEFAULT_BUNDLE,
    rule: Annotated[str, typer.Option(help="as_printed, as_published or balanced.")] = "balanced",
    max_partitions: Annotated[int, typer.Option(help="Sub-models.")] = 4,
    measure: Annotated[str | None, typer.Option(help="What a layer costs, such as flops or parameters.")] = None,
    max_complexity: Annotated[int | None, typer.Option(help="The most a sub-model may cost, with balanced.")] = None,
    prune: Annotated[float | None, typer.Option(help="Algorithm II: prune every sub-model by this ratio.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Prune by the signed comparison of the paper.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cut a network into sub-models by UNet-PWP's Algorithm I, and print what each costs."""
    from ..bundle_folder import build_on_meta, find_bundle, read_slice_size
    from ..compression.complexity import count_nonzero_parameters
    from ..networks import LiteUNet, load_weights
    from ..partitioning import algorithms
    from ..partitioning.layers import measure_layers
    from ..partitioning.sub_models import prune_sub_models, split_network

    if signed and prune is None:
        raise InputError("signed: expected together with --prune, found no --prune.")
    network = build_on_meta(bundle)
    input_shape = (1, network.arguments["in_channels"], *read_slice_size(bundle))
    layers = measure_layers(network, input_shape)
    starts = algorithms.partition(layers, rule, max_partitions, measure, max_complexity)
    measure = measure or algorithms.RULES[rule]
    more = []
    if prune is not None:
        weights = find_bundle(bundle) / "models/model.pt"
        sub_models = split_network(load_weights(LiteUNet(**network.arguments), weights), starts)
        pruned = prune_sub_models(sub_models, prune, signed)
        more = [{"nonzero_parameters": count_nonzero_parameters(sub_model)} for sub_model in pruned]
    parts, balance = algorithms.tabulate(layers, starts), algorithms.describe_balance(layers, starts, measure)
    if as_json:
        rows = [asdict(part) | extra for part, extra in zip(parts, more or [{}] * len(parts))]
        about = {"bundle": find_bundle(bundle).name, "input_shape": input_shape, "rule": rule, "measure": measure}
        print(json.dumps(about | {"sub_models": rows, "balance": balance}, indent=1))
    else:
        print(f"{algorithms.format_table(parts, more)}\n{balance}")


@app.command()
def info(bundle: Bundle = DEFAULT_BUNDLE) -> None:
    """Print what a bundle is, and the versions of the packages here: for a look, and for reports of faults."""
    from .segmenter import describe_bundle

    for key, value in describe_bundle(bundle).items():
        print(f"{key}: {value}")


@app.command()
def demo_data(
    output: Folder,
    count: Annotated[int, typer.Option(help="Number of cases.")] = 10,
    seed: Annotated[int, typer.Option(help="Other seeds give other patients.")] = 0,
) -> None:
    """Write synthetic CT cases in KiTS19's layout; cases that are there already are left alone."""
    from ..files import check_writable
    from ..kits.cases import find_cases
    from ..kits.phantom import write_phantom_dataset

    check_writable(output)
    if output.is_dir() and len(list(output.iterdir())) >= count:
        print(f"{len(find_cases(output))} synthetic cases are in {output}")
        return
    print(f"writing {count} synthetic cases to {output}")
    try:
        write_phantom_dataset(output, count, seed)
    except ValueError as error:
        raise InputError(f"demo-data: {error}") from error
