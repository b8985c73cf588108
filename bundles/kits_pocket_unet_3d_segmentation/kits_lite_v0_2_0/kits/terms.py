"""
Names, codes and colours of what is segmented, for the formats that have a place for them.

The codes are SNOMED CT's, chosen from the context groups of DICOM PS3.16: the category from CID 7150, the kidney from
CID 7192 (anatomical structures, as in CID 7154), the tumour from CID 7194 (morphologically abnormal structures, as in
CID 7159). That group has no neoplasm of a certain organ, and "neoplasm of kidney" (126880001) is a disorder and no
structure: a tumour is a neoplasm, benign or malignant, whose anatomic region is the kidney.
https://dicom.nema.org/medical/dicom/current/output/chtml/part16/chapter_B.html
"""

from __future__ import annotations

from typing import NamedTuple

from .overlay import COLORS
from .volumes import LABELS

SCHEME = "SCT"


class Code(NamedTuple):
    """A SNOMED CT concept."""

    value: str
    meaning: str


class Term(NamedTuple):
    """One class: its key, its label in a label map, and how it is called and shown elsewhere."""

    key: str
    label: int
    name: str
    category: Code
    kind: Code
    region: Code | None
    color: str


KIDNEY = Code("64033007", "Kidney")
TERMS = (
    Term(
        key="kidney",
        label=LABELS["kidney"],
        name="Kidney",
        category=Code("91723000", "Anatomical Structure"),
        kind=KIDNEY,
        region=None,
        color=COLORS["kidney"],
    ),
    Term(
        key="tumor",
        label=LABELS["tumor"],
        name="Kidney tumor",
        category=Code("49755003", "Morphologically Abnormal Structure"),
        kind=Code("108369006", "Neoplasm"),
        region=KIDNEY,
        color=COLORS["tumor"],
    ),
)


def parse_color(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a color like `#00c8ff`."""
    return tuple(bytes.fromhex(color[1:]))
