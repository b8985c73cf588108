"""DICOM Segmentation and report: what two independent readers find in them is the mask, where it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import make_hu, make_positions, write_enhanced, write_stack
from dicom_readers import find_faults, read_with_dcmqi, read_with_highdicom, run_dcmqi
from refusals import error_message

from common.app.dicom_results import Algorithm, make_report, make_segmentation, write_dicom

highdicom = pytest.importorskip("highdicom", reason="needs highdicom: pip install .[dicom]")

COS, SIN = float(np.cos(0.35)), float(np.sin(0.35))
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "negated rows": (-1, 0, 0, 0, 1, 0),
    "negated columns": (1, 0, 0, 0, -1, 0),
    "both negated": (-1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (COS, SIN, 0, -SIN, COS, 0),
    "nodding": (1, 0, 0, 0, COS, SIN),
}
ALGORITHM = Algorithm("Pocket U-Net", "0.2.0", {"weights_sha256": "a" * 64})
MEASURES = {"kidney_ml": 321.0987, "tumor_ml": 12.5, "tumor_diameter_mm": 33.25}
COUNT, SHAPE = 6, (20, 16, 6)


def write_oriented(folder: Path, orientation: str = "axial", names: list[int] | None = None, **tags: object) -> Path:
    cosines = ORIENTATIONS[orientation]
    positions = make_positions(COUNT, 5 * np.cross(cosines[:3], cosines[3:]))
    tags = {"ImageOrientationPatient": [format(value, ".9g") for value in cosines]} | tags
    return write_stack(folder, make_hu(COUNT, SHAPE[1], SHAPE[0]), positions, names, **tags)


def make_label_map() -> np.ndarray:
    """Random labels in four slices, so that the order, every axis and empty planes count."""
    label_map = np.random.default_rng(0).integers(0, 3, SHAPE, dtype=np.uint8)
    label_map[..., [0, 3]] = 0
    return label_map


READERS = {"highdicom": read_with_highdicom, "dcmqi": read_with_dcmqi}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("orientation", "names"),
    [("axial", None), ("axial", [3, 0, 5, 1, 4, 2]), *((name, [5, 4, 3, 2, 1, 0]) for name in ORIENTATIONS)],
    ids=str,
)
def test_another_reader_finds_every_voxel_where_it_was(tmp_path, orientation, names, read):
    # the last a header that says nonsense about the distance
    image = write_oriented(tmp_path / "ct", orientation, names, SpacingBetweenSlices=-17)
    write_dicom(tmp_path / "a.seg.dcm", make_segmentation(image, make_label_map(), ALGORITHM))
    np.testing.assert_array_equal(read(tmp_path / "a.seg.dcm", image), make_label_map())


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("step", [5, -5])
def test_an_enhanced_object_is_referred_to_frame_by_frame(tmp_path, read, step):
    image = write_enhanced(tmp_path / "ct.dcm", make_hu(COUNT, SHAPE[1], SHAPE[0]), make_positions(COUNT, (0, 0, step)))
    write_dicom(tmp_path / "a.seg.dcm", make_segmentation(image, make_label_map(), ALGORITHM))
    np.testing.assert_array_equal(read(tmp_path / "a.seg.dcm", image), make_label_map())


@pytest.fixture
def image(tmp_path) -> Path:
    return write_oriented(tmp_path / "ct", PatientID="P1", AccessionNumber="7")


def test_a_segmentation_says_what_it_holds_and_what_it_was_made_of_and_by(image):
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    kidney, tumor = made.SegmentSequence
    codes = [
        (item.SegmentedPropertyCategoryCodeSequence[0].CodeValue, item.SegmentedPropertyTypeCodeSequence[0].CodeValue)
        for item in (kidney, tumor)
    ]
    assert codes == [("91723000", "64033007"), ("49755003", "108369006")]
    assert tumor.AnatomicRegionSequence[0].CodeValue == "64033007"
    assert [item.SegmentLabel for item in (kidney, tumor)] == ["Kidney", "Kidney tumor"]
    algorithm = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "Pocket U-Net" and algorithm.AlgorithmVersion == "0.2.0"
    assert "a" * 64 in algorithm.AlgorithmParameters
    sources = [pydicom.dcmread(file) for file in image.iterdir()]
    assert made.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert (made.StudyInstanceUID, made.PatientID, made.AccessionNumber) == (sources[0].StudyInstanceUID, "P1", "7")
    referenced = made.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        source.SOPInstanceUID for source in sources
    }
    assert made.SeriesInstanceUID != sources[0].SeriesInstanceUID


def test_every_frame_refers_to_the_slice_at_its_own_position(image):
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    where = {s.SOPInstanceUID: [*s.ImagePositionPatient] for s in map(pydicom.dcmread, image.iterdir())}
    for frame in made.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert [*frame.PlanePositionSequence[0].ImagePositionPatient] == pytest.approx(where[source])


def test_an_empty_label_map_is_a_segmentation_without_voxels(image, tmp_path):
    write_dicom(tmp_path / "a.seg.dcm", make_segmentation(image, np.zeros(SHAPE, np.uint8), ALGORITHM))
    assert not read_with_highdicom(tmp_path / "a.seg.dcm", image).any()


def test_a_report_gives_volumes_and_the_diameter_in_their_units(image, tmp_path):
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    write_dicom(tmp_path / "a.sr.dcm", make_report(image, made, MEASURES, ALGORITHM))
    report = highdicom.sr.srread(tmp_path / "a.sr.dcm")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    found = {}
    for group in report.content.get_volumetric_roi_measurement_groups():
        assert group.referenced_segment.referenced_sop_instance_uid == made.SOPInstanceUID
        for measurement in group.get_measurements():
            key = group.finding_type.meaning, measurement.name.meaning
            found[key] = measurement.value, measurement.unit.value, measurement.unit.scheme_designator
    assert found == {
        ("Kidney", "Volume"): (321.099, "ml", "UCUM"),
        ("Neoplasm", "Volume"): (12.5, "ml", "UCUM"),
        ("Neoplasm", "Long axis"): (33.25, "mm", "UCUM"),
    }


def test_dcmqi_reads_the_report_too(image, tmp_path):
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    write_dicom(tmp_path / "a.sr.dcm", make_report(image, made, MEASURES, ALGORITHM))
    run_dcmqi("tid1500reader", "--inputDICOM", tmp_path / "a.sr.dcm", "--outputMetadata", tmp_path / "a.json")
    groups = json.loads((tmp_path / "a.json").read_text())["Measurements"]
    values = [[float(item["value"]) for item in group["measurementItems"]] for group in groups]
    assert values == [[321.099], [12.5, 33.25]]
    assert {group["segmentationSOPInstanceUID"] for group in groups} == {made.SOPInstanceUID}


@pytest.mark.parametrize("label_map", [make_label_map(), np.zeros(SHAPE, np.uint8)], ids=["labelled", "empty"])
@pytest.mark.parametrize("kind", [*ORIENTATIONS, "enhanced"])
def test_a_validator_finds_no_fault_in_a_segmentation_and_its_report(tmp_path, kind, label_map):
    if kind == "enhanced":
        image = write_enhanced(tmp_path / "ct.dcm", make_hu(COUNT, SHAPE[1], SHAPE[0]), make_positions(COUNT))
    else:
        image = write_oriented(tmp_path / "ct", kind)
    results, sources = [tmp_path / "a.seg.dcm", tmp_path / "a.sr.dcm"], [*image.glob("*.dcm")] or [image]
    made = make_segmentation(image, label_map, ALGORITHM)
    write_dicom(results[0], made)
    write_dicom(results[1], make_report(image, made, MEASURES, ALGORITHM))
    assert find_faults(results, sources) == ""


def test_the_validators_do_find_faults(image, tmp_path):
    path, sources = tmp_path / "a.seg.dcm", [*image.iterdir()]
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    made.PatientID = "P2"
    write_dicom(path, made)
    assert find_faults([path], sources) != "" == find_faults([path], [])
    del made.SegmentSequence
    write_dicom(path, made)
    assert find_faults([path], []) != ""


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"FrameOfReferenceUID": None}, "expected FrameOfReferenceUID for results in DICOM, found none"),
        ({"StudyInstanceUID": None}, "expected StudyInstanceUID for results in DICOM, found none"),
        ({"SOPClassUID": None}, "expected SOPClassUID for results in DICOM, found none"),
    ],
)
def test_a_series_that_lacks_what_a_result_takes_over_is_told(tmp_path, tags, words):
    image = write_oriented(tmp_path / "ct", **tags)
    assert words in error_message(lambda: make_segmentation(image, make_label_map(), ALGORITHM))


def test_patient_data_that_are_missing_stay_empty(tmp_path):
    image = write_oriented(tmp_path / "ct", PatientName=None)
    made = make_segmentation(image, make_label_map(), ALGORITHM)
    assert made.PatientName in (None, "") and "StudyDate" in made


def test_mixed_frames_of_reference_are_told(tmp_path):
    change = {2: {"FrameOfReferenceUID": "1.2.8"}}
    image = write_stack(tmp_path / "ct", make_hu(COUNT, 16, 20), make_positions(COUNT), change=change)
    told = error_message(lambda: make_segmentation(image, make_label_map(), ALGORITHM))
    assert "expected FrameOfReferenceUID 1.2.9 as in 000.dcm, found 1.2.8" in told


def test_an_image_that_is_no_dicom_is_told(write_nifti):
    path = write_nifti(make_label_map())
    words = "expected a DICOM series for results in DICOM, which refer to its patient, study and instances"
    assert words in error_message(lambda: make_segmentation(path, make_label_map(), ALGORITHM))
