"""What a bundle's metadata and README say of its network and weights, as they are counted."""

from __future__ import annotations

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
        held_out = metadata["scores"]["cross_validation"]
        pooled, mean = (
            f"{scores['kidney_and_tumor']:.3f} for kidney and tumour, {scores['tumor']:.3f} for tumour"
            for scores in (held_out, held_out["per_case"])
        )
        text += (
            f" Dice on kits19-slices of {held_out['cases']} held-out cases in {len(held_out['folds'])} folds, the first"
            f" of which settings were chosen on: {pooled}, pooled; {mean}, mean of the cases."
        )
    return text
