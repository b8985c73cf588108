"""Checks of a bundle's network and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from monai.bundle.scripts import _get_fake_spatial_shape

from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.files import hash_file
from common.networks import load_weights

from ..rendering import SKELETON
from .bundle import METADATA, NOT_RECORDED, WEIGHTS, Bundle, NotChecked, compare, flatten


def check_network(bundle: Bundle) -> Iterator[str]:
    """One forward pass maps the metadata's input to its output; sizes such as "16*n" are tried with n = 1."""
    network, (image, pred) = bundle.build_network(), bundle.describe_io()
    shape = (1, image["num_channels"], *_get_fake_spatial_shape(image["spatial_shape"]))
    try:
        with torch.no_grad():
            output = network(torch.rand(shape).to(getattr(torch, image["dtype"])))
    except RuntimeError as error:
        yield f"inputs.image: expected a network that takes {shape}, found {flatten(error)}"
        return
    sizes = list(_get_fake_spatial_shape(pred["spatial_shape"]))
    yield from compare("outputs.pred.num_channels", pred["num_channels"], output.shape[1])
    yield from compare("outputs.pred.spatial_shape", sizes, list(output.shape[2:]))
    yield from compare("outputs.pred.dtype", pred["dtype"], str(output.dtype).removeprefix("torch."))
    yield from compare("outputs.pred.channel_def", list(range(output.shape[1])), sorted(bundle.channels))


def check_state_dict(bundle: Bundle) -> Iterator[str]:
    """The weights are a state dict of `network_def`, key by key and shape by shape."""
    load_weights(bundle.network, bundle.find_weights())
    yield from ()


def check_devices(bundle: Bundle) -> Iterator[str]:
    """`torch.load` needs no map_location, and leaves every tensor on the CPU."""
    path = bundle.find_weights()
    try:
        values = torch.load(path, weights_only=True).values()
    except Exception as error:
        _ = bundle.trained_network  # what is damaged is the state dict's problem
        yield f"{WEIGHTS}: expected a file that loads on the CPU, found {flatten(error)}"
        return
    devices = {str(value.device) for value in values if isinstance(value, torch.Tensor)}
    yield from compare(f"{WEIGHTS} devices", "cpu", ", ".join(sorted(devices)))


def check_weights_file(bundle: Bundle) -> Iterator[str]:
    """The file of weights is the one with the recorded size and sha256."""
    recorded = bundle.find_recorded("weights")
    yield from compare("weights.file", WEIGHTS, recorded["file"])
    path = bundle.find_weights()
    _ = bundle.trained_network  # what does not fit is the state dict's problem
    problems = list(compare(f"{WEIGHTS} bytes", recorded["bytes"], path.stat().st_size))
    yield from problems or compare(f"{WEIGHTS} sha256", recorded["sha256"], hash_file(path))


def check_complexity(bundle: Bundle) -> Iterator[str]:
    """Parameters and FLOPs, of the network and of the one that it was pruned from."""
    recorded = bundle.find_recorded("complexity")
    convention = json.loads((SKELETON / METADATA).read_text())["complexity"]["convention"]
    yield from compare("complexity.convention", convention, recorded.get("convention"))
    original = dict(recorded.get("original", {}))
    blocks = [("complexity", recorded, bundle.network)]
    if original:
        changes = {key: value for key, value in original.items() if key not in ("parameters", "flops")}
        with torch.device("meta"):
            blocks.append(("complexity.original", original, bundle.build_network(**changes)))
    for what, block, network in blocks:
        yield from compare(f"{what}.parameters", block["parameters"], count_parameters(network))
        yield from compare(f"{what}.flops", block["flops"], count_flops(network, recorded["input_shape"]))


def check_sparsity(bundle: Bundle) -> Iterator[str]:
    """So many weights that ship are not zero."""
    recorded = bundle.find_recorded("complexity")
    if not {"nonzero_parameters", "sparsity"} & recorded.keys():
        raise NotChecked(f"no complexity.nonzero_parameters in {METADATA}", NOT_RECORDED)
    nonzero, parameters = count_nonzero_parameters(bundle.trained_network), count_parameters(bundle.network)
    for key, found in {"nonzero_parameters": nonzero, "sparsity": round(1 - nonzero / parameters, 6)}.items():
        if key in recorded:
            yield from compare(f"complexity.{key}", recorded[key], found)
