"""What a bundle's metadata and README say of its network and weights, as they are counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..compression.complexity import count_nonzero_parameters, count_parameters, measure_complexity
from ..files import hash_file
from ..networks import LiteUNet

NO_WEIGHTS = "This version ships without weights: train it first."


def count_complexity(network: LiteUNet, input_shape: Sequence[int]) -> dict[str, int]:
    """Parameters and FLOPs as `metadata.json` names them."""
    complexity = measure_complexity(network, input_shape)
    return {"parameters": complexity.parameters, "flops": complexity.flops}


def count_zeros(network: LiteUNet) -> dict[str, float]:
    """Non-zero parameters, and the share of zeros among all parameters, as `metadata.json` names them."""
    parameters, nonzero = count_parameters(network), count_nonzero_parameters(network)
    return {"nonzero_parameters": nonzero, "sparsity": round(1 - nonzero / parameters, 6)}


def render_weights(weights: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `metadata.json` says of the file of weights."""
    return {
        "file": "models/model.pt",
        "bytes": weights.stat().st_size,
        "sha256": hash_file(weights),
        "license": "CC BY-NC-SA 4.0",
        "trained_on": record["trained_on"],
    }


def describe_weights(metadata: Mapping[str, Any]) -> str:
    """What the README says about `models/model.pt`."""
    if "weights" not in metadata:
        return NO_WEIGHTS
    complexity = metadata["complexity"]
    text = (
        f"Weights: trained on {metadata['weights']['trained_on']}; {complexity['nonzero_parameters']:,} of the"
        f" {complexity['parameters']:,} parameters are not zero."
    )
    if "scores" in metadata:
        text += "\n\n" + "\n".join(f"- {line}" for line in describe_scores(metadata["scores"]))
    return text


def replace_weights_text(readme: str, metadata: Mapping[str, Any]) -> str:
    """A bundle's README that says of its weights what `describe_weights` says; it stands before the next heading."""
    told = describe_weights(metadata)
    return re.sub(rf"(?s)({NO_WEIGHTS}|Weights: ).*?(?=\n\n## )", lambda _: told, readme)


def describe_scores(scores: Mapping[str, Any]) -> list[str]:
    """The scores of a bundle as sentences: the whole scan first, which is what a user has."""
    patients, empty, scan = scores["patients"], scores["without_kidney"], scores["scan"]
    every = scan["all_pieces"]
    return [
        f"On one whole scan of {scan['slices']} slices: Dice {scan['kidney_and_tumor']:.3f} for kidney and tumour"
        f" together, {scan['tumor']:.3f} for the tumour; {scan['invented_ml']:.1f} ml are invented above and below"
        f" the kidneys. The two largest pieces stay of what is found; where all do, `keep_largest` 0:"
        f" {every['kidney_and_tumor']:.3f} and {every['tumor']:.3f}; {every['invented_ml']:.1f} ml are invented.",
        f"On slices of {patients['patients']} patients that no training saw, pooled: Dice"
        f" {patients['pooled']['kidney_and_tumor']:.3f} for kidney and tumour together,"
        f" {patients['pooled']['tumor']:.3f} for the tumour; {patients['tumor_found']} of {patients['with_tumor']}"
        f" tumours are found, {patients['false_tumors']} invented.",
        f"In {empty['wrong_slices']} of {empty['slices']} of their slices without kidney more than 80 pixels are"
        " invented.",
    ]
