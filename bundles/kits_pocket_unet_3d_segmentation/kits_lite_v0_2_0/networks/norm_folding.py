"""BatchNorm for training only: inserted into a network that has none, folded into its convolutions afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .blocks import ConvBlock, SeparableConv
from .lite_unet import LiteUNet

# BatchNorm is the identity with whatever statistics it starts; an epoch of them would take as long as a training epoch
MEASURED_BATCHES = 8


def insert_batch_norm(
    network: LiteUNet, batches: Iterable[Mapping[str, torch.Tensor]] | None = None, trained: bool = False
) -> LiteUNet:
    """
    A copy of a network in which BatchNorm stands between every convolution of a block and its ReLU.

        conv -- BatchNorm -- ReLU, which `fold_batch_norm` turns back into conv -- ReLU

    The networks that their papers print without normalization train several times faster this way and ship as printed;
    so does SD-UNet, whose GroupNorm stands at the end of a block only. A network that has BatchNorm of its own, or is
    no `LiteUNet`, is returned as it is.

    Weights without BatchNorm that are loaded into the copy later, as MONAI Label does when training starts, make
    BatchNorm start as the identity: its statistics are those of the first batches, its scale and shift undo it.

    Args:
        batches: {"image": (B, in_channels, H, W), or (B, in_channels, D, H, W)}, read when trained weights come.
        trained: the network's own weights are such weights.

    Source: Ioffe and Szegedy, "Batch Normalization", https://arxiv.org/abs/1502.03167.
    """
    if not isinstance(network, LiteUNet) or any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    normalized = copy.deepcopy(network)
    for _, block, relu, conv in _list_convs(normalized):
        norm = get_norm_layer("batch", network.spatial_dims, conv.out_channels).to(conv.weight)
        block.add_module(relu, nn.Sequential(norm, nn.ReLU()))

    def complete(network: nn.Module, incompatible: Any) -> None:
        if batches is not None and any(name.endswith(".running_mean") for name in incompatible.missing_keys):
            _start_as_identity(network, batches)
            # what else is missing stays an error
            incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if ".relu" not in name]

    normalized.register_load_state_dict_post_hook(complete)
    if trained:
        normalized.load_state_dict(network.state_dict())
    return normalized


def fold_batch_norm(network: LiteUNet) -> LiteUNet:
    """
    A copy of a network without what `insert_batch_norm` put there: the same function in evaluation mode.

    Example:
        >>> network = LiteUNet(channels=(4, 8), num_convs=(1, 1))
        >>> folded = fold_batch_norm(insert_batch_norm(network))
        >>> folded.state_dict().keys() == network.state_dict().keys()
        True
    """
    folded = copy.deepcopy(network)
    for _, block, relu, conv in _list_convs(folded):
        if isinstance(activation := block.get_submodule(relu), nn.Sequential):
            norm = activation[0]
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            block.add_module(relu, nn.ReLU())
    return folded


def _list_convs(network: LiteUNet) -> Iterator[tuple[str, ConvBlock, str, nn.Module]]:
    """Of every convolution that a ReLU follows in a block: its name, the block, the ReLU's name there, itself."""
    for path, block in list(network.named_modules()):
        if isinstance(block, ConvBlock):
            for number in range(1, sum(name.startswith("conv") for name, _ in block.named_children()) + 1):
                conv = block.get_submodule(f"conv{number}")
                conv = conv.pointwise if isinstance(conv, SeparableConv) else conv
                yield f"{path}.conv{number}", block, f"relu{number}", conv


@torch.no_grad()
def _start_as_identity(network: LiteUNet, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    norms = {conv: block.get_submodule(relu)[0] for _, block, relu, conv in _list_convs(network)}
    for norm in norms.values():
        norm.reset_parameters()  # as good as absent while the outputs are measured
    is_training = network.training
    for conv, (mean, variance) in _measure_outputs(network.eval(), norms, batches).items():
        norms[conv].running_mean, norms[conv].running_var = mean, variance
        norms[conv].weight.copy_((variance + norms[conv].eps).sqrt())
        norms[conv].bias.copy_(mean)
    network.train(is_training)


def _measure_outputs(
    network: LiteUNet, convs: Iterable[nn.Module], batches: Iterable[Mapping[str, torch.Tensor]]
) -> dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance per channel of what every convolution puts out."""
    sums: dict[nn.Module, torch.Tensor] = {}

    def collect(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        variance, mean = torch.var_mean(output, dim=(0, *range(2, output.dim())), correction=0)
        variance, mean = variance.double(), mean.double()
        moments = torch.stack([torch.ones_like(mean), mean, variance + mean**2])
        sums[module] = sums.get(module, 0) + moments * (output.numel() / output.shape[1])

    handles = [conv.register_forward_hook(collect) for conv in convs]
    device = next(network.parameters()).device
    for batch in islice(batches, MEASURED_BATCHES):
        # a MetaTensor would hand its class on to the statistics, and to the file of weights
        network(batch["image"].as_subclass(torch.Tensor).to(device))
    for handle in handles:
        handle.remove()
    moments = {conv: (total[1] / total[0], total[2] / total[0]) for conv, total in sums.items()}
    return {conv: (mean.float(), (square - mean**2).clamp(min=0).float()) for conv, (mean, square) in moments.items()}
