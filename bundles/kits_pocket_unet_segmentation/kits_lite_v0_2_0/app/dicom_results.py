"""
Results in DICOM: a label map as a Segmentation object, and its measurements as a structured report, by highdicom.

Both refer to the instances that they were made from and stay in their study and frame of reference. The report is one
of TID 1500, Measurement Report, with a group of TID 1411 per segment: volume (CID 7472), and of the tumour the long
axis in an axial slice (CID 7470), in units of UCUM. The codes of what is segmented stand in `kits.terms`.

Source: DICOM PS3.3 A.51 and C.8.20, PS3.16 TID 1500; https://highdicom.readthedocs.io
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.config import PathLike
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat as DS

from .. import __version__
from ..errors import InputError
from ..files import write_whole
from ..kits.dicom_series import choose_series, read_order
from ..kits.itk_images import is_dicom
from ..kits.terms import SCHEME, TERMS, Code, Term, parse_color
from ..runtimes.packages import import_package

MANUFACTURER = "kits-lite"
# what a result takes over from its images, and cannot be without
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# what has to be there and may be empty
MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")
MAY_BE_EMPTY += ("AccessionNumber", "ReferringPhysicianName")
SERIES_NUMBERS = {"SEG": 9001, "SR": 9002}


@dataclass(frozen=True)
class Algorithm:
    """
    What made a segmentation, for its algorithm identification.

    Args:
        name: of the network.
        version: of its bundle.
        parameters: by name, such as `weights_sha256`.
    """

    name: str
    version: str
    parameters: Mapping[str, str]


def check_source(image: PathLike, series: str | None = None) -> None:
    """
    Raises:
        InputError: when results in DICOM are wanted of an image that is not, or whose first file lacks what they need.
    """
    if not is_dicom(image):
        raise InputError(
            f"{image}: expected a DICOM series for results in DICOM, which refer to its patient, study and instances; "
            "found a file without them."
        )
    _read_source(choose_series(Path(image), series)[0])


def make_segmentation(
    image: PathLike, label_map: np.ndarray, algorithm: Algorithm, series: str | None = None
) -> pydicom.Dataset:
    """
    Make a DICOM Segmentation of a series: BINARY, one segment per class, frames without any class left out.

    Args:
        image, series: see `read_series`.
        label_map: uint8 (columns, rows, slices), on the grid that `read_series` gives.

    Raises:
        InputError: when the image is no DICOM series, its instances lack what a segmentation needs, or highdicom is
            missing.

    Example:
        >>> segmentation = Segmenter("kits_pocket_unet_segmentation")("series")
        >>> make_segmentation("series", segmentation.label_map, Algorithm("Pocket U-Net", "0.2.0", {})).Modality
        'SEG'
    """
    check_source(image, series)
    highdicom = import_package("highdicom")
    files, order, affine = read_order(Path(image), series)
    sources = [_read_source(file) for file in files]
    frames = np.empty(label_map.shape[::-1], np.uint8)
    frames[order] = label_map.transpose()
    for source in sources:
        _set_distance(source, float(np.linalg.norm(affine[:3, 2])))
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=pydicom.sr.codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=MANUFACTURER,
        parameters=dict(algorithm.parameters),
    )
    with _quiet():
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type="BINARY",
            segment_descriptions=[_describe(term, identification, highdicom) for term in TERMS],
            content_label="KIDNEY",
            content_description="Kidney and kidney tumor, for research only",
            **_identify("SEG", algorithm),
        )
    made.ContentCreatorName = None  # it has to be there, and nobody drew this
    return made


def make_report(
    image: PathLike,
    segmentation: pydicom.Dataset,
    measures: Mapping[str, float],
    algorithm: Algorithm,
    series: str | None = None,
) -> pydicom.Dataset:
    """
    Make a structured report, TID 1500, with the measurements of a DICOM Segmentation.

    Args:
        image, series: what the segmentation was made of, see `read_series`.
        measures: "kidney_ml", "tumor_ml" and "tumor_diameter_mm", see `measure_case`.

    Raises:
        InputError: see `make_segmentation`.
    """
    highdicom, codes = import_package("highdicom"), pydicom.sr.codes
    sources = [_read_source(file) for file in read_order(Path(image), series)[0]]
    parameters = [f"{name}: {value}" for name, value in algorithm.parameters.items()]
    made_by = highdicom.sr.AlgorithmIdentification(algorithm.name, algorithm.version, parameters)
    observer = highdicom.sr.ObserverContext(
        codes.DCM.Device,
        highdicom.sr.DeviceObserverIdentifyingAttributes(
            generate_uid(), algorithm.name, MANUFACTURER, algorithm.name, serial_number=algorithm.version
        ),
    )
    groups = []
    for number, term in enumerate(TERMS, start=1):
        values = [(codes.SCT.Volume, measures[f"{term.key}_ml"], ("ml", "milliliter"), None)]
        if term.region is not None:  # the kidney has no diameter of its own
            value = measures["tumor_diameter_mm"]
            values += [(codes.SCT.LongAxis, value, ("mm", "millimeter"), codes.SCT.Maximum)]
        groups.append(
            highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=highdicom.sr.TrackingIdentifier(generate_uid(), term.name),
                referenced_segment=highdicom.sr.ReferencedSegment(
                    segmentation.SOPClassUID,
                    segmentation.SOPInstanceUID,
                    number,
                    source_series=highdicom.sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
                ),
                finding_category=_code(term.category),
                finding_type=_code(term.kind),
                finding_sites=[highdicom.sr.FindingSite(_code(term.region))] if term.region else None,
                algorithm_id=made_by,
                measurements=[
                    highdicom.sr.Measurement(
                        name, round(value, 3), highdicom.sr.CodedConcept(unit[0], "UCUM", unit[1]), derivation=how
                    )
                    for name, value, unit, how in values
                ],
            )
        )
    with _quiet():
        content = highdicom.sr.MeasurementReport(
            highdicom.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        identity = _identify("SR", algorithm)
        return highdicom.sr.ComprehensiveSR(
            evidence=[*sources, segmentation], content=content[0], is_complete=True, **identity
        )


def write_dicom(path: PathLike, dataset: pydicom.Dataset) -> None:
    """Write a DICOM file in one piece."""
    with write_whole(path) as temporary, _quiet():
        dataset.save_as(temporary, enforce_file_format=True)


def _read_source(file: Path) -> pydicom.Dataset:
    """The header of an image, with all that a result takes over from it."""
    with _quiet():
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        missing = [keyword for keyword in NEEDED if not header.get(keyword)]
        if missing:
            raise InputError(f"{file}: expected {', '.join(missing)} for results in DICOM, found none.")
        for keyword in MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, None)
    return header


def _set_distance(header: pydicom.Dataset, distance_mm: float) -> None:
    """Tell the distance of the planes' positions, for what a header calls SpacingBetweenSlices may be anything."""
    groups = [*header.get("SharedFunctionalGroupsSequence", []), *header.get("PerFrameFunctionalGroupsSequence", [])]
    for place in [item for group in groups for item in group.get("PixelMeasuresSequence", [])] or [header]:
        place.SpacingBetweenSlices = DS(distance_mm, auto_format=True)
        if not place.get("SliceThickness"):
            place.SliceThickness = place.SpacingBetweenSlices


def _describe(term: Term, identification: Sequence, highdicom: Any) -> pydicom.Dataset:
    return highdicom.seg.SegmentDescription(
        segment_number=term.label,
        segment_label=term.name,
        segmented_property_category=_code(term.category),
        segmented_property_type=_code(term.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        tracking_uid=generate_uid(),
        tracking_id=term.name,
        anatomic_regions=[_code(term.region)] if term.region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*parse_color(term.color)),
    )


def _code(code: Code) -> pydicom.sr.coding.Code:
    return pydicom.sr.coding.Code(code.value, SCHEME, code.meaning)


def _identify(modality: str, algorithm: Algorithm) -> dict[str, object]:
    return {
        "series_instance_uid": generate_uid(),
        "series_number": SERIES_NUMBERS[modality],
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name,
        "software_versions": __version__,
        "device_serial_number": algorithm.version,
        "series_description": f"{algorithm.name}, for research only"[:64],
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of values in source files that break a rule of DICOM and do not matter here."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
