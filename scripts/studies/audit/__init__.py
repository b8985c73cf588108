"""The tables of docs/studies/audit.md."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from common.compression.complexity import count_flops, count_parameters
from common.errors import InputError
from zoo.pages import format_markdown_table, replace_section

from .claims import FULL, POCKET, build, collect_findings
from .paper_counts import compute_sigma_share, count_pocketnet, count_stem_network, count_weights

# SD-UNet, Table 1: millions of parameters, millions of FLOPs, MB; those that are audited
TABLE_1 = {"UNet": ("", "62.04", "372.5"), "U-Net (GN)": ("26", "", ""), "SD-UNet": ("3.9", "7.8", "15.8")}
SIGMA_RATIOS = (0.5, 0.6745, 1.0, 2.0)


def format_summary() -> str:
    """The summary in Markdown."""
    # words, so read from the left
    return format_markdown_table([asdict(finding) for finding in collect_findings()]).replace("--:", "---", 4)


def format_sizes() -> str:
    """What the columns of SD-UNet's Table 1 count."""
    rows = []
    for row, quoted in TABLE_1.items():
        parameters, weights = count_parameters(build(row)), count_weights(build(row))
        rows.append(
            {"network": row}
            | dict(zip(("printed: parameters, M", "FLOPs, M", "size, MB"), quoted))
            | {"computed: parameters": f"{parameters:,}", "GFLOP": f"{count_flops(build(row)) / 1e9:.2f}"}
            | {"2 x weights, M": f"{2e-6 * weights:.2f}"}
            | {f"{size} bytes a parameter, MB": f"{1e-6 * size * parameters:.1f}" for size in (4, 12)}
        )
    return format_markdown_table(rows)


def format_shares() -> str:
    """What Algorithm II zeroes of Gaussian weights, by both readings."""
    readings = {"by magnitude": False, "as printed, signed": True}
    return format_markdown_table(
        [
            {"ratio": f"{ratio:g}"}
            | {name: f"{compute_sigma_share(ratio, signed):.1%}" for name, signed in readings.items()}
            for ratio in SIGMA_RATIOS
        ]
    )


def format_pocketnets() -> str:
    """Parameters of the PocketNet family."""
    counts = {
        "released, 2-D U-Net, 1 output": [count_pocketnet(channels, 9) for channels in (POCKET, FULL)],
        "released, 2-D U-Net, 3 outputs": [count_pocketnet(channels, 9, outputs=3) for channels in (POCKET, FULL)],
        "released, 3-D U-Net": [count_pocketnet(channels, 27) for channels in (POCKET, FULL)],
        "released, 3-D ResNet": [count_pocketnet(channels, 27, "ResNet, released") for channels in (POCKET, FULL)],
        "with additions, 3-D ResNet": [count_pocketnet(channels, 27, "ResNet") for channels in (POCKET, FULL)],
        "released, 3-D DenseNet": [count_pocketnet(channels, 27, "DenseNet") for channels in (POCKET, FULL)],
        "Table 2, 2-D U-Net": [count_stem_network(channels[:4]) for channels in (POCKET, FULL)],
        "Table 2, 2-D DenseNet": [count_stem_network(channels[:4], "DenseNet") for channels in (POCKET, FULL)],
    }
    return format_markdown_table(
        [
            {"network": name, "16 channels everywhere": f"{pocket:,}", "doubling from 16": f"{full:,}"}
            | {"share": f"{pocket / full:.2%}", "times fewer": f"{full / pocket:.1f}"}
            for name, (pocket, full) in counts.items()
        ]
    )


SECTIONS = {
    "summary": format_summary,
    "sizes": format_sizes,
    "shares": format_shares,
    "pocketnets": format_pocketnets,
}


def write_audit(page: Path) -> None:
    """
    Write the tables of a page anew.

    Raises:
        InputError: when there is no such page, or it lacks the place for a table.
    """
    if not page.is_file():
        raise InputError(f"{page}: expected the page to write the tables to, found none.")
    for name, format_section in SECTIONS.items():
        replace_section(page, name, format_section())
