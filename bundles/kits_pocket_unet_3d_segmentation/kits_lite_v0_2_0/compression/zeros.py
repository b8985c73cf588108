"""
Weights set to zero: WP-UNet's magnitude pruning, Algorithm II of UNet-PWP, and both while a network is fine-tuned.

Pruned are the kernels of the convolutions: standard, depthwise, pointwise and transposed ones. Left alone are
    biases and normalization: 0.04 % to 1 % of the parameters, and a zero there saves nothing;
    the head: a few hundred weights that every prediction passes through;
    standardized filters (`StdConv2d`): standardization moves their zeros off zero again.

Zeros make files smaller (`save_weights`). They do not make eager inference faster; fewer channels do
(`channel_pruning`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune

from ..errors import InputError
from ..networks.layers import StdConv2d

METHODS = ("magnitude", "sigma")


class SigmaThreshold(prune.BasePruningMethod):
    """
    Algorithm II: weights below `ratio` x the tensor's standard deviation become zero.

    Of Gaussian weights a ratio of 0.5 takes 38.3 %, 0.6745 50 %, 1.0 68.3 %, 2.0 95.4 %. The paper prints a signed
    comparison, which takes every negative weight as well (69.1 % at 0.5, 84.1 % at 1.0), and names no ratio.

    Args:
        signed: compare as printed, weight < threshold, instead of |weight| < threshold.

    Source: UNet-PWP, https://doi.org/10.3390/diagnostics13203244, Algorithm II.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, ratio: float, signed: bool = False) -> None:
        self.ratio = ratio
        self.signed = signed

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        below = (t if self.signed else t.abs()) < self.ratio * t.std(correction=0)
        return default_mask * ~below


def find_prunable(network: nn.Module) -> dict[str, _ConvNd]:
    """The convolutions whose kernels are pruned, by name; see the module's docstring."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _ConvNd) and not isinstance(module, StdConv2d) and name.rpartition(".")[2] != "head"
    }


def compute_masks(network: nn.Module, method: str, amount: float, signed: bool = False) -> dict[str, torch.Tensor]:
    """
    For every prunable kernel, by the name of its convolution: True where a weight stays.

    Args:
        method: `"magnitude"`, the smallest `amount` of every tensor goes: round(amount x size) weights, among equal
            magnitudes those that torch.topk meets first; `"sigma"`, see `SigmaThreshold`.
        amount: share of the weights in [0, 1), or the ratio, 0 or more. What is zero already counts.
        signed: with `"sigma"`, the comparison as printed.

    Raises:
        InputError: for another method, amount, or `signed` without `"sigma"`.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got method={method!r}.")
    if method == "magnitude":
        if not 0 <= amount < 1:
            raise InputError(f"amount must be in [0, 1), got amount={amount}.")
        if signed:
            raise InputError("signed belongs to method 'sigma', got method='magnitude'.")
        rule: prune.BasePruningMethod = prune.L1Unstructured(float(amount))
    else:
        if not 0 <= amount < float("inf"):
            raise InputError(f"amount, the ratio to the standard deviation, must be 0 or more, got amount={amount}.")
        rule = SigmaThreshold(amount, signed)
    masks = {}
    for name, module in find_prunable(network).items():
        weight = module.weight.detach().contiguous()  # torch's pruning cannot view channels_last
        masks[name] = rule.compute_mask(weight, torch.ones_like(weight)).bool() & (weight != 0)
    return masks


def prune_weights(network: nn.Module, method: str, amount: float, signed: bool = False) -> nn.Module:
    """A copy of a network with the weights zeroed that `compute_masks` does not keep."""
    masks = compute_masks(network, method, amount, signed)
    pruned = copy.deepcopy(network)
    with torch.no_grad():
        for name, module in find_prunable(pruned).items():
            module.weight.mul_(masks[name])
    return pruned


def prune_by_magnitude(network: nn.Module, amount: float) -> nn.Module:
    """
    A copy of a network in which the smallest `amount` of every kernel, by magnitude, is zero.

    Source: WP-UNet, https://doi.org/10.4103/jmss.jmss_108_21, "weight pruning".

    Example:
        >>> pruned = prune_by_magnitude(nn.Sequential(nn.Conv2d(1, 8, kernel_size=5)), 0.5)
        >>> int((pruned[0].weight == 0).sum())
        100
    """
    return prune_weights(network, "magnitude", amount)


def prune_by_sigma(network: nn.Module, ratio: float, signed: bool = False) -> nn.Module:
    """
    A copy of a network pruned by Algorithm II, see `SigmaThreshold`.

    Every tensor has a threshold of its own, so pruning the sub-models of a partition one by one gives the same.
    """
    return prune_weights(network, "sigma", ratio, signed)


@dataclass(frozen=True)
class LayerSparsity:
    """Zeros of one prunable kernel."""

    name: str
    weights: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that is exactly zero."""
        return self.zeros / self.weights


def measure_sparsity(network: nn.Module) -> list[LayerSparsity]:
    """The zeros of every prunable kernel, the largest share of which pruning decides."""
    return [
        LayerSparsity(name, module.weight.numel(), int((module.weight == 0).sum()))
        for name, module in find_prunable(network).items()
    ]


def schedule_sparsity(progress: float, initial: float, final: float) -> float:
    """
    Sparsity after a share `progress` of the pruning: fast at first, slow at the end.

    Source: Zhu and Gupta, "To prune, or not to prune", https://arxiv.org/abs/1710.01878, Eq. 1.
    """
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3


class GradualPruning:
    """
    Prunes a network while it is trained: the zeros of every kernel grow along `schedule_sparsity` and stay zero.

    How many there are at the end is decided at the start, by `compute_masks` on the weights that training begins with;
    which they are, by the magnitudes (or, signed, the values) of the day. Weights become zero in place after the
    optimizer's step: nothing is to be folded in at the end, and every file written holds the zeros.

    Args:
        network: the plain network, not its DistributedDataParallel wrapper, with the weights that training begins with.
        method, amount, signed: as for `compute_masks`.
        ramp: share of the iterations, in (0, 1], in which the zeros grow; in the rest the others are fine-tuned.
        interval: iterations from one growth to the next.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str = "magnitude",
        amount: float = 0.5,
        signed: bool = False,
        ramp: float = 0.5,
        interval: int = 5,
    ) -> None:
        if not 0 < ramp <= 1:
            raise InputError(f"ramp must be in (0, 1], got ramp={ramp}.")
        self.convs = find_prunable(network)
        self.initial = {name: int((conv.weight == 0).sum()) for name, conv in self.convs.items()}
        masks = compute_masks(network, method, amount, signed)
        self.final = {name: int((~mask).sum()) for name, mask in masks.items()}
        self.signed = signed
        self.ramp = ramp
        self.interval = interval
        self.masks: dict[str, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Hook into a trainer, after the handler that resumes a run."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)

    def start(self, engine: Engine) -> None:
        """Take the zeros of the weights, loaded or resumed, for the pruned ones."""
        self.masks = {name: conv.weight.detach() != 0 for name, conv in self.convs.items()}

    def step(self, engine: Engine) -> None:
        """Put the pruned weights back to zero after the optimizer's step, and prune more when it is time."""
        length = self.ramp * engine.state.max_epochs * engine.state.epoch_length
        iteration = engine.state.iteration
        ends = iteration - 1 < length <= iteration
        grows = ends or (iteration < length and iteration % self.interval == 0)
        with torch.no_grad():
            for name, conv in self.convs.items():
                conv.weight.mul_(self.masks[name])
                if grows:
                    zeros = round(schedule_sparsity(iteration / length, self.initial[name], self.final[name]))
                    self.masks[name] = self._choose(conv.weight, self.masks[name], zeros)
                    conv.weight.mul_(self.masks[name])

    def _choose(self, weight: torch.Tensor, mask: torch.Tensor, zeros: int) -> torch.Tensor:
        # the scores of pruned weights are 0, all others more: what is pruned stays pruned
        scores = (mask * (weight - weight.min() + 1) if self.signed else weight).contiguous()
        return prune.L1Unstructured(zeros).compute_mask(scores, torch.ones_like(scores)).bool()
