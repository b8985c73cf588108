"""
Fewer channels: from a trained `LiteUNet` to a narrower one, which is smaller and faster on any machine.

torch-pruning's dependency graph says which weights belong to a channel, through concatenated skips, depthwise layers
and normalization. Its own pruner ranks a skip and the upsampled channels beside it as one where both enter a depthwise
layer, so the widths are set here, one convolution at a time: all convolutions of a level keep the same number.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import InputError
from ..networks import LiteUNet
from ..networks.weights import load_weights, read_weights

IMPORTANCES = ("l1", "batchnorm", "taylor")
TAYLOR_BATCHES = 16


def scale_channels(network: LiteUNet, amount: float) -> list[int]:
    """
    The width of every level without a share of its channels.

    Args:
        amount: share to remove, in [0, 1). Widths are rounded to the next number that the groups of a GroupNorm divide.

    Raises:
        InputError: for another amount, or where less than one channel (one a group) would be left.
    """
    if not 0 <= amount < 1:
        raise InputError(f"amount must be in [0, 1), got amount={amount}.")
    groups = _count_groups(network)
    channels = [groups * round(width * (1 - amount) / groups) for width in network.channels]
    if min(channels) < 1:
        raise InputError(
            f"amount={amount} leaves less than {groups} of {min(network.channels)} channels: too few for "
            + (f"GroupNorm with {groups} groups." if groups > 1 else "a network.")
        )
    return channels


def prune_channels(
    network: LiteUNet,
    channels: Sequence[int],
    importance: str = "l1",
    batches: Iterable[dict[str, torch.Tensor]] | None = None,
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> LiteUNet:
    """
    A new, narrower `LiteUNet` with the most important channels of a network.

    Without normalization, or with BatchNorm in evaluation mode, its output is that of the given network with everything
    of the removed channels set to zero. With GroupNorm every group loses as many channels, but the statistics of a
    group are those of the remaining ones: fine-tune.

    Args:
        channels: width of every level, none above the network's.
        importance: `"l1"`, the sum of magnitudes of all weights of a channel, outgoing and incoming;
            `"batchnorm"`, the scale of its BatchNorm, l1 where none follows the convolution;
            `"taylor"`, |weight x gradient|, summed.
        batches: for `"taylor"`, {"image": (B, in_channels, H, W), "label": (B, 1, H, W)}; the first 16 are used.
        loss_function: for `"taylor"`, of logits and labels.

    Raises:
        InputError: for another importance, no batches where they are needed, or channels that do not fit.

    Sources: l1, https://arxiv.org/abs/1608.08710; BatchNorm, https://arxiv.org/abs/1708.06519; Taylor,
    https://doi.org/10.1109/CVPR.2019.01152; dependency graph, https://arxiv.org/abs/2301.12900.

    Example:
        >>> prune_channels(LiteUNet(channels=(16, 32), num_convs=(2, 2)), (8, 16)).channels
        (8, 16)
    """
    if importance not in IMPORTANCES:
        raise InputError(f"importance must be one of {', '.join(IMPORTANCES)}, got importance={importance!r}.")
    _check_channels(network, channels)
    wide = copy.deepcopy(network).cpu().eval()
    if importance == "taylor":
        if batches is None or loss_function is None:
            raise InputError("importance 'taylor' needs batches and a loss function to take gradients of, got none.")
        _add_gradients(wide, batches, loss_function)
    size = 2 * wide.size_divisor
    example = torch.zeros(1, wide.arguments["in_channels"], *[size] * wide.spatial_dims)
    with torch.enable_grad():
        # a concatenation counts the channels of layers alone: one makes those of the image known
        image = type(wide.head)(example.shape[1], example.shape[1], kernel_size=1)
        graph = tp.DependencyGraph().build_dependency(nn.Sequential(image, wide), example_inputs=example)
    # all channels are ranked before the first is removed
    removed: dict[nn.Module, list[int]] = {}
    tied: set[nn.Module] = set()
    for conv, width in _iterate_convs(wide, channels):
        if conv not in tied:  # to one whose channels it is added to, and loses the same
            group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=list(range(conv.out_channels)))
            removed[conv] = _find_least_important(group, conv.out_channels - width, importance)
            tied |= {step.target.module for step, _ in group if graph.is_out_channel_pruning_fn(step.handler)}
    for conv, indices in removed.items():
        graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=indices).prune()
    pruned = LiteUNet(**network.arguments | {"channels": list(channels)})
    pruned.load_state_dict(wide.state_dict())
    return pruned.to(next(network.parameters()).device).train(network.training)


def load_pruned(
    network: LiteUNet,
    path: str | os.PathLike,
    importance: str = "l1",
    batches: Iterable[dict[str, torch.Tensor]] | None = None,
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> LiteUNet:
    """
    Load weights into a network, by `prune_channels` where they are those of a wider one, and return the network.

    Raises:
        InputError: as `load_weights` and `prune_channels` do.
    """
    channels = _read_channels(path, len(network.channels))
    if channels is None or channels == network.channels:
        return load_weights(network, path)
    wide = load_weights(LiteUNet(**network.arguments | {"channels": channels}), path)
    pruned = prune_channels(wide, network.channels, importance, batches, loss_function)
    network.load_state_dict(pruned.state_dict())
    return network


def _read_channels(path: str | os.PathLike, levels: int) -> tuple[int, ...] | None:
    """Widths of the network that a file of weights belongs to; None when it is no `LiteUNet` of so many levels."""
    weights = read_weights(path)
    channels = []
    for level in range(levels):
        conv = f"encoder.{level}.conv1"
        kernel = weights.get(f"{conv}.weight", weights.get(f"{conv}.pointwise.weight"))
        if not isinstance(kernel, torch.Tensor) or kernel.dim() not in (4, 5):
            return None
        channels.append(len(kernel))
    return tuple(channels)


def _check_channels(network: LiteUNet, channels: Sequence[int]) -> None:
    fits = len(channels) == len(network.channels) and all(0 < c <= w for c, w in zip(channels, network.channels))
    if not fits:
        raise InputError(
            f"channels must be {len(network.channels)} positive numbers, none above {list(network.channels)},"
            f" got channels={list(channels)}."
        )
    groups = _count_groups(network)
    if any(width % groups for width in channels):
        raise InputError(f"channels must be multiples of GroupNorm's {groups} groups, got channels={list(channels)}.")


def _count_groups(network: LiteUNet) -> int:
    return max((m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)), default=1)


def _iterate_convs(network: LiteUNet, channels: Sequence[int]) -> Iterable[tuple[nn.Module, int]]:
    """Every convolution that has channels of its own, and the width it is to have."""
    levels = [*zip(network.encoder, channels), *zip(network.decoder, reversed(channels[:-1]))]
    for block, width in [*levels, (network.refine, channels[0])]:
        for module in block.modules():
            if isinstance(module, _ConvNd) and module.groups == 1:
                yield module, width


def _find_least_important(group: tp.dependency.Group, number: int, importance: str) -> list[int]:
    modules = [dependency.target.module for dependency, _ in group]
    if importance == "taylor":
        measure: tp.importance.Importance = tp.importance.GroupTaylorImportance()
    elif importance == "batchnorm" and any(isinstance(module, _BatchNorm) for module in modules):
        measure = tp.importance.BNScaleImportance()
    else:
        measure = tp.importance.GroupMagnitudeImportance(p=1)
    scores = measure(group)
    # a GroupNorm keeps its groups: each loses as many channels
    groups = next((module.num_groups for module in modules if isinstance(module, nn.GroupNorm)), 1)
    ranked = scores.view(groups, -1).argsort(dim=1)[:, : number // groups]
    offsets = torch.arange(groups).unsqueeze(1) * (len(scores) // groups)
    return sorted((ranked + offsets).flatten().tolist())


def _add_gradients(network: nn.Module, batches: Iterable, loss_function: Callable) -> None:
    for batch in islice(batches, TAYLOR_BATCHES):
        loss_function(network(batch["image"].float()), batch["label"]).backward()
