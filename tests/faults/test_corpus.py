"""Every hostile input has the clean mask, or is one line: in kits-lite segment, check, score and inference.json."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, POCKET
from corpus import AFFINE, CT, Hostile, list_corpus
from dicom_corpus import list_dicom
from monai.bundle import ConfigWorkflow
from nibabel.affines import apply_affine

from common.app.cli import main
from common.app.segmenter import Segmenter
from common.errors import find_input_error
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.networks.weights import save_weights

CORPUS = [*list_corpus(), *list_dicom()]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """Pocket U-Net with random weights that find something of every class."""
    folder = shutil.copytree(
        BUNDLES / POCKET, tmp_path_factory.mktemp("bundle") / POCKET, ignore=shutil.ignore_patterns("eval", "models")
    )
    torch.manual_seed(1)
    network = LiteUNet(channels=[16] * 5).eval()
    with torch.no_grad():
        slices = torch.from_numpy(CT.clip(0, 255).astype(np.float32) / 255).permute(2, 0, 1)[:, None, :32, :32]
        network.head.bias -= network(slices).mean(dim=(0, 2, 3))
    save_weights(network, folder / "models/model.pt")
    return folder


@pytest.fixture(scope="session")
def segmenter(bundle) -> Segmenter:
    return Segmenter(bundle, "cpu", backend="torch")


@pytest.fixture(scope="session")
def clean(segmenter, tmp_path_factory) -> np.ndarray:
    """The mask (X, Y, Z) of the clean CT in RAS."""
    path = tmp_path_factory.mktemp("clean") / "clean.nii.gz"
    nib.save(nib.Nifti1Image(CT, AFFINE), path)
    mask = segmenter.segment({"image": str(path)}).label_map
    assert set(np.unique(mask)) == {0, 1, 2}
    return mask


@pytest.fixture
def run(bundle, segmenter, monkeypatch, capsys) -> Callable[..., tuple[int, list[str], str]]:
    """A function that runs a command, and gives exit code, error lines and everything that was printed."""

    def call(name: str, **options: object) -> tuple[int, list[str], str]:
        if name == "segment":  # one network for all
            monkeypatch.setattr("common.app.segmenter.Segmenter", lambda *_, **__: segmenter)
            options |= {"bundle": bundle, "backend": "torch"}
        capsys.readouterr()
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                code = main([name, *words])
            except Exception as error:
                told = find_input_error(error)
                assert told is not None, f"{name} died of {error!r}"
                code, refused = 1, [f"error: {line}" for line in str(told).splitlines()]
            else:
                refused = []
        printed = "".join(capsys.readouterr())
        return code, refused or re.findall(r"^error: .*$", printed, re.M), printed

    return call


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_lies_in_the_patient(mask: nib.Nifti1Image, clean: np.ndarray, placed: np.ndarray) -> None:
    """Every voxel of a mask is the clean mask's at the same millimetre, and none is missing."""
    indices = np.argwhere(np.ones(mask.shape, bool))
    there = apply_affine(np.linalg.inv(placed @ AFFINE) @ mask.affine, indices)
    rounded = np.rint(there).astype(int)
    assert np.abs(there - rounded).max() < 0.02 and len(np.unique(rounded, axis=0)) == clean.size
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[tuple(indices.T)], clean[tuple(rounded.T)])


def run_inference(bundle: Path, dataset_dir: Path, output: Path) -> str:
    """`inference.json` in this process; gives what it was refused with."""
    workflow = ConfigWorkflow(
        str(bundle / "configs/inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(output),
        backend="torch",
        handlers=[],
    )
    workflow.initialize()
    try:
        workflow.run()
    except Exception as error:
        told = find_input_error(error)
        assert told is not None, f"inference.json died of {error!r}"
        return str(told)
    return ""


@pytest.mark.parametrize("hostile", CORPUS, ids=[hostile.name for hostile in CORPUS])
@pytest.mark.filterwarnings("ignore")
def test_an_input_is_right_or_one_line(hostile: Hostile, bundle, clean, run, tmp_path, record_property):
    record_property("family", hostile.family)
    record_property("fate", "told" if hostile.words else "warning" if hostile.warning else "right")
    inputs, output = tmp_path / "inputs", tmp_path / "output"
    inputs.mkdir()
    path = hostile.make(inputs)
    before = read_tree(inputs)

    code, errors, printed = run("segment", input=path, output=output)
    assert "Traceback" not in printed
    assert read_tree(inputs) == before
    masks = sorted(output.glob("*")) if output.exists() else []
    if hostile.words:
        assert code == 1 and len(errors) == 1, printed
        assert re.search(hostile.words, errors[0]) and str(inputs) in errors[0], errors
        assert masks == []
    else:
        assert code == 0 and errors == [], printed
        (mask,) = masks
        if hostile.warning:
            assert re.search(rf"^warning: .*{hostile.warning}", printed, re.M), printed
        assert bool(hostile.warning) == ("warning:" in printed), printed
        assert hostile.warning or not hostile.differs  # what is called right is compared
        if hostile.placed is not None and not hostile.differs:
            assert_lies_in_the_patient(nib.load(mask), clean, hostile.placed)

    code, errors, printed = run("check", input=path)
    assert code == int(bool(hostile.words) or hostile.bad), printed
    assert len(errors) == code and "Traceback" not in printed
    assert not errors or re.search(hostile.words or hostile.warning, errors[0])

    # MONAI takes no path with a # in it, but a folder of such files
    told = run_inference(bundle, path.parent if "#" in path.name else path, tmp_path / "inference")
    assert bool(told) == bool(hostile.words) and "\n" not in told
    found = {file.name: file.read_bytes() for file in tmp_path.glob("inference/*")}
    assert found == {file.name: file.read_bytes() for file in masks}

    # what was segmented scores 1 against itself; what could not be read is told as a prediction, too
    labels, predictions = tmp_path / "labels", tmp_path / "predictions"
    case = find_cases(path)[0]["case"] if path.exists() or path.is_symlink() else "scan"
    for folder in (labels, predictions):
        folder.mkdir()
    source = masks[0] if masks else path
    nib.save(nib.Nifti1Image(clean, AFFINE), labels / f"{case}.nii.gz")
    if masks:
        shutil.copy(source, labels / f"{case}.nii.gz")
        shutil.copy(source, predictions / f"{case}.nii.gz")
    elif source.is_file() and source.name.lower().endswith((".nii", ".nii.gz")):
        shutil.copy(source, predictions / source.name)
    else:
        (predictions / f"{case}.nii.gz").write_bytes(b"no label map")
    code, errors, printed = run("score", labels=labels, predictions=predictions, output=tmp_path / "scores.csv")
    assert "Traceback" not in printed and code == (0 if masks else 1), printed
    assert len(errors) == code and (tmp_path / "scores.csv").exists() == bool(masks)
    assert read_tree(inputs) == before
    assert not [file for file in tmp_path.rglob(".[0-9]*")]


def test_the_corpus_is_large_and_every_input_has_a_name_of_its_own():
    assert len(CORPUS) >= 120 and len({hostile.name for hostile in CORPUS}) == len(CORPUS)


def test_all_files_of_the_corpus_in_one_folder_are_done_each_as_alone(bundle, run, tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    good, bad = 0, 0
    for number, hostile in enumerate(CORPUS):
        (tmp_path / str(number)).mkdir()
        path = hostile.make(tmp_path / str(number))
        if (
            path.is_file()
            and not path.is_symlink()
            and path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha"))
        ):
            suffix = re.search(r"(\.nii)?\.\w+$", path.name, re.IGNORECASE)[0]
            path.rename(inputs / f"{number:03d}{suffix}")
            good, bad = good + (hostile.words is None), bad + (hostile.words is not None)
    assert good > 60 and bad > 30
    code, errors, printed = run("segment", input=inputs, output=tmp_path / "output")
    assert code == 1 and len(errors) == bad and f"{good} of {good + bad} cases segmented" in printed
    assert len(list((tmp_path / "output").iterdir())) == good
    told = run_inference(bundle, inputs, tmp_path / "inference")
    assert len(told.splitlines()) == bad
    assert read_tree(tmp_path / "inference") == read_tree(tmp_path / "output")
