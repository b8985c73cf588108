"""Which number a label has: in the words of the metadata and the README, and in the code of a bundle."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from .bundle import NOT_RECORDED, README, Bundle, NotChecked, compare, normalize

Labels = dict[int, str]


def check_labels(bundle: Bundle) -> Iterator[str]:
    """
    `channel_def`, `label_classes`, `pred_classes`, the README and the bundle's own package number the labels alike.

    Who is wrong is whoever contradicts the most others, so that one mistake is one problem.
    """
    channels = bundle.channels
    listings = [("channel_def", channels), *_read_codes(bundle)]
    texts = {key: str(bundle.metadata.get(key)) for key in ("label_classes", "pred_classes")} | {README: bundle.readme}
    for source, text in texts.items():
        # the background may go without saying
        listings += [(source, {0: channels.get(0, ""), **found}) for found in find_listings(text, channels.values())]
    truth = max((labels for _, labels in listings), key=lambda labels: sum(labels == other for _, other in listings))
    for source, labels in listings:
        if labels != truth:
            yield f"{source}: expected {format_labels(truth)}, found {format_labels(labels)}"
    silent = texts.keys() - dict(listings).keys()
    if silent:
        raise NotChecked(f"no numbered labels in {', '.join(sorted(silent))}", NOT_RECORDED)


def format_labels(labels: Mapping[int, str]) -> str:
    """Labels in the order of their numbers, as in "0 background, 1 kidney"."""
    return ", ".join(f"{code} {name}" for code, name in sorted(labels.items()))


def find_listings(text: str, names: Iterable[str]) -> list[Labels]:
    """
    The numbered lists in a text that hold one of some names or more.

    Such as "0 background, 1 kidney", "0: background; 1: kidney", "background (0), kidney (1)", "background = 0", a
    list with a bullet a label and a table with a row a label.
    """
    known = {normalize(name) for name in names}
    words = "|".join(re.escape(name).replace("tumor", "tumou?r") for name in sorted(known, key=len, reverse=True))
    name = rf"(?:(?:{words})\b|[a-z]\w*)"
    # bullets and rows of a table on one line
    text = re.sub(r"\s*\n\s*[-*|]\s*", ", ", text).replace("|", " ")
    listings = []
    for item in (rf"(?P<code>\d+)\s*[:=]?\s*(?P<name>{name})", rf"(?P<name>{name})\s*[(:=]\s*(?P<code>\d+)\)?"):
        plain = re.sub(r"\?P<\w+>", "?:", item)
        for run in re.findall(rf"(?<![\w.,]){plain}(?:(?:\s*[,;]\s*(?:and\s+)?|\s+and\s+){plain})+", text, re.I):
            found = {int(match["code"]): normalize(match["name"]) for match in re.finditer(item, run, re.I)}
            listings += [found] if known & set(found.values()) else []
    return listings


def _read_codes(bundle: Bundle) -> Iterator[tuple[str, Labels]]:
    """The labels by their codes in the bundle's own package; a bundle without such a package gives none."""
    for path in bundle.folder.glob("*/kits/volumes.py"):
        name = path.relative_to(bundle.folder)
        labels = importlib.import_module(".".join(name.with_suffix("").parts)).LABELS
        yield f"{name} LABELS", {code: normalize(label) for label, code in labels.items()}


def check_inferer(bundle: Bundle) -> Iterator[str]:
    """Where a channel's logit is the largest, the inferer of `inference.json` writes the channel's number."""
    config, channels = bundle.open_config(), sorted(bundle.channels)
    if "inferer" not in config or not any(bundle.folder.glob("*/kits/volumes.py")):
        raise NotChecked("no inferer that writes label maps", NOT_RECORDED)
    inferer, codes = config.get_parsed_content("inferer"), []
    for channel in channels:
        one_hot = F.one_hot(torch.tensor(channel), len(channels)).float()
        volume = MetaTensor(torch.zeros(1, 1, 8, 8, 2), affine=torch.eye(4))
        label_map = inferer(volume, lambda x, y=one_hot: torch.stack([torch.full_like(x[:, 0], v) for v in y], dim=1))
        codes += label_map.unique().tolist()
    yield from compare("codes that the inferer writes", channels, codes)
