"""The five networks on one screen, and the papers' ablations: rows of `LiteUNet` arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# Keras BatchNorm's momentum 0.99 is torch's 0.01
BATCH_NORM = ["batch", {"momentum": 0.01, "eps": 0.001}]
GROUP_NORM = ["group", {"num_groups": 32}]
# the papers'; the networks that were trained on a GPU have the wider one
PAPER_WINDOW = {"hu_window": [0, 255]}


@dataclass(frozen=True)
class Variant:
    """
    One bundle: its folder name, how people call the network, and what differs from the skeleton.

    Args:
        network: arguments of `LiteUNet`, JSON-able; with a `_target_`, of another class.
        preprocessing: values of `train.json` and `inference.json` that differ.
        training: values of `train.json` that differ.
        pruning: values of `prune.json` that differ.
        original: arguments that differ in the network before its channels were pruned; empty where none were.
        stages: of its training by the protocol, see `studies.protocol`.
        recipe: file of `configs/recipes` with the training that its paper prints; the others' are left out.
        divisor: what height and width of the network's input are multiples of.
    """

    name: str
    title: str
    summary: str
    reference: str
    network: dict[str, Any]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] = field(default_factory=dict)
    original: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("whole",)
    recipe: str = ""
    divisor: int = 16


VARIANTS = (
    Variant(
        name="kits_unet_segmentation",
        title="UNet",
        summary="the dense U-Net, the baseline that the others are measured against",
        reference="Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015, arXiv:1505.04597",
        network={"channels": [64, 128, 256, 512, 1024]},
        training={"learning_rate": 0.001},
    ),
    Variant(
        name="kits_wp_unet_segmentation",
        title="WP-UNet",
        summary="depthwise-separable convolutions, batch normalization and half the width",
        reference="Rao et al., Weight pruning-UNet: Weight pruning UNet with depth-wise separable convolutions for semantic segmentation of kidney tumors, Journal of Medical Signals and Sensors 2022, 12(2), 108-113, doi:10.4103/jmss.jmss_108_21",
        network={
            "channels": [32, 64, 128, 256, 512],
            "num_convs": [1, 2, 2, 2, 1],
            "separable": True,
            "norm": BATCH_NORM,
            "norm_bottleneck": False,
            "dropout": 0.5,
        },
        preprocessing=PAPER_WINDOW,
        training={"learning_rate": 0.003},
        stages=("dense", "sparse"),
        recipe="wp_unet_paper.json",
    ),
    Variant(
        name="kits_sd_unet_segmentation",
        title="SD-UNet",
        summary="depthwise-separable convolutions with weight standardization over each layer's kernel, and group normalization",
        reference="Gadosey et al., SD-UNet: Stripping down U-Net for Segmentation of Biomedical Images on Platforms with Low Computational Budgets, Diagnostics 2020, 10(2), 110, doi:10.3390/diagnostics10020110",
        network={
            "channels": [64, 128, 256, 512, 1024],
            "num_convs": [1, 2, 2, 2, 2],
            "separable": True,
            "weight_standardization": "layer",
            "norm": GROUP_NORM,
            "dropout": 0.5,
            "upsample": "nearest",
            "refine": True,
        },
        preprocessing=PAPER_WINDOW,
        training={"learning_rate": 0.01},
        recipe="sd_unet_paper.json",
    ),
    Variant(
        name="kits_unet_pwp_segmentation",
        title="UNet-PWP",
        summary="the dense U-Net with a quarter of its channels left and weights below a threshold zeroed (Algorithm II)",
        reference="Rao et al., Optimizing Inference Distribution for Efficient Kidney Tumor Segmentation Using a UNet-PWP Deep-Learning Model with XAI on CT Scan Images, Diagnostics 2023, 13(20), 3244, doi:10.3390/diagnostics13203244",
        network={"channels": [16, 32, 64, 128, 256]},
        preprocessing=PAPER_WINDOW,
        training={"learning_rate": 0.003},
        pruning={
            "pretrained": "$@bundle_root + '/models/dense/model.pt'",
            "method": "sigma",
            "importance": "taylor",
        },
        original={"channels": [64, 128, 256, 512, 1024]},
        stages=("dense", "sparse"),
        recipe="unet_pwp_paper.json",
    ),
    Variant(
        name="kits_pocket_unet_segmentation",
        title="Pocket U-Net",
        summary="the U-Net with 16 channels on every level",
        reference="Celaya et al., PocketNet: A Smaller Neural Network for Medical Image Analysis, IEEE Transactions on Medical Imaging 2023, 42(4), 1172-1184, arXiv:2104.10745",
        network={"channels": [16, 16, 16, 16, 16]},
        training={"learning_rate": 0.003},
        recipe="pocketnet_paper.json",
    ),
)

# public networks trained by the same protocol to compare with; no bundles
BASELINES = (
    Variant(
        name="basic_unet",
        title="MONAI BasicUNet",
        summary="the 2-D U-Net of MONAI with its default widths",
        reference="https://docs.monai.io/en/stable/networks.html#basicunet",
        network={"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 3},
        training={"learning_rate": 0.003},
    ),
    Variant(
        name="dyn_unet",
        title="MONAI DynUNet",
        summary="MONAI's DynUNet as nnU-Net plans it for 256 x 256: seven levels, 32 to 512 channels, instance normalization",
        reference="Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z",
        network={
            "_target_": "DynUNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 3,
            "kernel_size": [3] * 7,
            "strides": [1] + [2] * 6,
            "upsample_kernel_size": [2] * 6,
            "filters": [32, 64, 128, 256, 512, 512, 512],
        },
        # seven levels want multiples of 64
        training={"learning_rate": 0.001, "windows": {"192": 0.75, "256": 0.25}},
        divisor=64,
    ),
)

# PocketNet: 16 channels everywhere, and the full networks that double from 16
POCKET, DOUBLING = [16] * 5, [16, 32, 64, 128, 256]
# its 3-D networks halve height and width alone
IN_3D = {"spatial_dims": 3, "pool": [1, 2, 2]}

# rows of the papers' tables that are no bundles
ABLATIONS = {
    "U-Net (depthwise + BN)": {"separable": True, "norm": BATCH_NORM},
    "U-Net (depthwise + GN)": {"separable": True, "norm": GROUP_NORM},
    "U-Net (GN)": {"norm": GROUP_NORM},
    "SD-UNet with BN": {**VARIANTS[2].network, "norm": BATCH_NORM},
    "SD-UNet (filter)": {**VARIANTS[2].network, "weight_standardization": "filter"},
    "WP-UNet without pruning": VARIANTS[1].network,
    "U-Net from 16": {"channels": DOUBLING},
    "Pocket ResNet": {"channels": POCKET, "block": "residual"},
    "ResNet from 16": {"channels": DOUBLING, "block": "residual"},
    "Pocket ResNet (released)": {"channels": POCKET, "block": "concat"},
    "Pocket DenseNet": {"channels": POCKET, "block": "dense"},
    "DenseNet from 16": {"channels": DOUBLING, "block": "dense"},
}


def _make_row(item: tuple[str, dict[str, Any]]) -> Variant:
    """An ablation as a row that can be trained, with the learning rate of its like or of most of the others."""
    title, network = item
    like = [row for row in VARIANTS if row.network.get("weight_standardization")]
    training = like[0].training if "weight_standardization" in network else {"learning_rate": 0.003}
    name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    return Variant(name, title, "a row of the papers' tables", "", network, training=training)


# bundles of 3-D networks, which ship without weights; volumes come with their slices as the last axis
VARIANTS_3D = (
    Variant(
        name="kits_pocket_unet_3d_segmentation",
        title="Pocket U-Net 3-D",
        summary="the 3-D U-Net with 16 channels on every level, which halves height and width alone",
        reference=VARIANTS[-1].reference,
        network={"channels": POCKET, "spatial_dims": 3, "pool": [2, 2, 1]},
        training=VARIANTS[-1].training,
    ),
)

# rows of PocketNet's 3-D tables; slices alone are trained on here
ABLATIONS_3D = {
    f"3-D {name}": {"channels": channels, "block": block, **IN_3D}
    for name, channels, block in (
        ("Pocket U-Net", POCKET, "conv"),
        ("U-Net", DOUBLING, "conv"),
        ("Pocket ResNet", POCKET, "residual"),
        ("ResNet", DOUBLING, "residual"),
        ("Pocket ResNet (released)", POCKET, "concat"),
        ("Pocket DenseNet", POCKET, "dense"),
        ("DenseNet", DOUBLING, "dense"),
    )
}
# what `train.py` takes: every row of slices, by a name without spaces
ROWS = (*VARIANTS, *BASELINES, *map(_make_row, ABLATIONS.items()))
TITLES = {row.name: row.title for row in (*VARIANTS, *BASELINES)}
