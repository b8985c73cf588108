"""Which number a label has, in the words of a text and in the code of a bundle."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser


def normalize(name: str) -> str:
    """A label's name as it is compared: lower case, American spelling."""
    return name.lower().replace("tumour", "tumor")


def format_labels(labels: Mapping[int, str]) -> str:
    """Labels in the order of their numbers, as in "0 background, 1 kidney"."""
    return ", ".join(f"{code} {name}" for code, name in sorted(labels.items()))


def find_listings(text: str, names: Iterable[str]) -> list[dict[int, str]]:
    """The numbered lists in a text, such as "0 background, 1 kidney", that hold one of some names or more."""
    known = {normalize(name) for name in names}
    words = "|".join(re.escape(name).replace("tumor", "tumou?r") for name in sorted(known, key=len, reverse=True))
    name = rf"(?:(?:{words})\b|[a-z]\w*)"
    item = rf"\d+\s*[:=]?\s*{name}"
    runs = re.findall(rf"(?<![\w.,]){item}(?:(?:\s*[,;]\s*(?:and\s+)?|\s+and\s+){item})+", text, re.IGNORECASE)
    pairs = [re.findall(rf"(\d+)\s*[:=]?\s*({name})", run, re.IGNORECASE) for run in runs]
    listings = [{int(code): normalize(found) for code, found in run} for run in pairs]
    return [listing for listing in listings if known & set(listing.values())]


def read_codes(folder: Path, config: ConfigParser, labels: Mapping[int, str]) -> Iterator[tuple[str, dict[int, str]]]:
    """
    The labels by their codes as the bundle's own package has them, each with where it stands.

    They are the package's `LABELS`, and the code that the inferer writes where a channel's logit is the largest. A
    bundle without such a package gives none.

    Args:
        labels: name of every channel.
    """
    for path in folder.glob("*/kits/volumes.py"):
        module = importlib.import_module(".".join(path.relative_to(folder).with_suffix("").parts))
        yield f"{path.relative_to(folder)} LABELS", {code: normalize(name) for name, code in module.LABELS.items()}
        inferer = config.get_parsed_content("inferer")
        codes = {}
        for channel, name in labels.items():
            one_hot = F.one_hot(torch.tensor(channel), len(labels)).float()[None, :, None, None]
            label_map = inferer(torch.zeros(1, 1, 8, 8, 2), lambda x, y=one_hot: y.expand(len(x), -1, *x.shape[2:]))
            codes |= {code: name for code in label_map.unique().tolist()}
        yield "codes that the inferer writes", codes
