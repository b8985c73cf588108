"""BatchNorm for training only: inserted into a network that has none, folded into its convolutions afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .blocks import ConvBlock, SeparableConv
from .lite_unet import LiteUNet


def insert_batch_norm(
    network: LiteUNet, batches: Iterable[Mapping[str, torch.Tensor]] | None = None
) -> LiteUNet:
    """
    A copy of a network in which BatchNorm stands between every convolution of a block and its ReLU.

        conv -- BatchNorm -- ReLU, which `fold_batch_norm` turns back into conv -- ReLU

    The networks that their papers print without normalization train several times faster this way and ship as printed.
    A network that has a normalization of its own, or is no `LiteUNet`, is returned as it is.

    Args:
        batches: {"image": (B, in_channels, H, W)}; with them, for a network that is trained already, BatchNorm starts
            as the identity: its statistics are those of the batches, its scale and shift undo it.

    Source: Ioffe and Szegedy, "Batch Normalization", https://arxiv.org/abs/1502.03167.
    """
    if not isinstance(network, LiteUNet) or network.arguments["norm"] is not None:
        return network
    statistics = _measure_outputs(network, batches) if batches is not None else {}
    normalized = copy.deepcopy(network)
    for name, block, relu, conv in _list_convs(normalized):
        norm = nn.BatchNorm2d(conv.out_channels).to(conv.weight)
        if name in statistics:
            norm.running_mean, norm.running_var = statistics[name]
            norm.weight.data = (norm.running_var + norm.eps).sqrt()
            norm.bias.data = norm.running_mean.clone()
        block.add_module(relu, nn.Sequential(norm, nn.ReLU()))
    return normalized


def fold_batch_norm(network: LiteUNet) -> LiteUNet:
    """A copy of a network without what `insert_batch_norm` put there: the same function in evaluation mode."""
    folded = copy.deepcopy(network)
    for _, block, relu, conv in _list_convs(folded):
        if isinstance(activation := block.get_submodule(relu), nn.Sequential):
            norm = activation[0]
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            block.add_module(relu, nn.ReLU())
    return folded


def _list_convs(network: LiteUNet) -> Iterator[tuple[str, ConvBlock, str, nn.Conv2d]]:
    """Of every convolution that a ReLU follows in a block: its name, the block, the ReLU's name there, itself."""
    for path, block in list(network.named_modules()):
        if isinstance(block, ConvBlock):
            for number in range(1, sum(name.startswith("conv") for name, _ in block.named_children()) + 1):
                conv = block.get_submodule(f"conv{number}")
                conv = conv.pointwise if isinstance(conv, SeparableConv) else conv
                yield f"{path}.conv{number}", block, f"relu{number}", conv


@torch.no_grad()
def _measure_outputs(
    network: LiteUNet, batches: Iterable[Mapping[str, torch.Tensor]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance per channel of what every convolution puts out."""
    sums: dict[str, torch.Tensor] = {}
    handles = []
    for name, _, _, conv in _list_convs(network):

        def collect(module: nn.Module, inputs: tuple, output: torch.Tensor, name: str = name) -> None:
            moments = torch.stack([torch.ones_like(output), output, output**2]).double().sum(dim=(1, 3, 4))
            sums[name] = sums.get(name, 0) + moments

        handles.append(conv.register_forward_hook(collect))
    device = next(network.parameters()).device
    for batch in batches:
        # a MetaTensor would hand its class on to the statistics, and to the file of weights
        network(batch["image"].as_subclass(torch.Tensor).to(device))
    for handle in handles:
        handle.remove()
    moments = {name: (total[1] / total[0], total[2] / total[0]) for name, total in sums.items()}
    return {name: (mean.float(), (square - mean**2).clamp(min=0).float()) for name, (mean, square) in moments.items()}
