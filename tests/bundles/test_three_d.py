"""The bundle of a 3-D network, which ships without weights: its workflows, what it says of itself, commands on it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NAMES_3D, ROOT, TORCHRUN, load_script, read_network, run_python, run_well

from common.app.cli import main
from common.compression.complexity import count_parameters
from common.compression.zeros import measure_sparsity
from common.errors import InputError
from common.networks import load_weights
from common.networks.weights import save_weights
from common.runtimes import scans
from common.runtimes.quantize import export_int8
from studies.audit.paper_counts import count_pocketnet
from zoo.packaging import package_bundles
from zoo.variants import POCKET
from zoo.verification import CHECKS, verify_bundle

(NAME,) = NAMES_3D
WITHOUT = "ships without weights: train it first"


@pytest.fixture
def bundle(copy_bundle) -> Path:
    """A copy that sees slices of 32 x 32 pixels, eight at a time."""
    folder = copy_bundle(NAME)
    for path in (folder / "configs/train.json", folder / "configs/inference.json"):
        small = {"spatial_size": [32, 32], "patch_size": [32, 32, 8]}
        path.write_text(json.dumps(json.loads(path.read_text()) | small))
    return folder


@pytest.fixture
def weighted(bundle) -> Path:
    """The same with weights, untrained, of which every label wins somewhere."""
    torch.manual_seed(0)
    network = read_network(bundle)
    with torch.no_grad():
        network.head.bias -= network(torch.rand(1, 1, 32, 32, 8)).mean(dim=(0, 2, 3, 4))
    save_weights(network, bundle / "models/model.pt")
    return bundle


@pytest.mark.slow
def test_it_trains_evaluates_segments_and_prunes(bundle, phantoms, tmp_path):
    for ckpt_dir in (bundle / "models", tmp_path / "again"):
        assert "epoch 2/2" in run_well(bundle, "train", dataset_dir=phantoms, epochs=2, ckpt_dir=ckpt_dir)
    assert (bundle / "models/model.pt").read_bytes() == (tmp_path / "again/model.pt").read_bytes()

    run_well(bundle, "train", "evaluate", dataset_dir=phantoms, subset="all")
    assert json.loads((bundle / "eval/summary.json").read_text())["cases"] == 4

    run_well(bundle, "inference", dataset_dir=phantoms, output_dir=tmp_path / "out", backend="torch")
    assert len(list((tmp_path / "out").iterdir())) == 4

    run_well(bundle, "train", "prune", dataset_dir=phantoms, epochs=2)
    pruned = load_weights(read_network(bundle), bundle / "models/pruned/model.pt")
    assert all(layer.zeros == round(0.5 * layer.weights) for layer in measure_sparsity(pruned))


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(bundle, phantoms):
    data = {"dataset_dir": phantoms, "validation_fraction": 0.5}  # a held-out case for either
    printed = run_well(bundle, "train", "multi_gpu_train", launcher=TORCHRUN, epochs=1, **data)
    assert printed.count("epoch 1/1") == 1
    run_well(bundle, "train", "evaluate", output_dir="one", subset="all", **data)
    run_well(
        bundle, "train", "evaluate", "multi_gpu_evaluate", launcher=TORCHRUN, output_dir="two", subset="all", **data
    )
    assert (bundle / "one/metrics.csv").read_text() == (bundle / "two/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # 84 patches of the network itself
def test_a_scan_of_512_x_512_x_500_takes_no_more_than_3_gb(copy_bundle, tmp_path):
    bundle = copy_bundle(NAME)
    save_weights(read_network(bundle), bundle / "models/model.pt")
    plane = np.random.default_rng(0).integers(-200, 300, (512, 512), dtype=np.int16)
    volume = np.asfortranarray(np.repeat(plane[..., None], 500, axis=2))
    nib.save(nib.Nifti1Image(volume, np.diag([0.8, 0.8, 1, 1])), tmp_path / "scan.nii")
    del volume  # a process begins with the peak of the one that starts it
    code = (
        "import resource, sys; from common.app.cli import main; main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"  # kB, on Linux
    )
    words = ["segment", "-b", str(bundle), "-i", str(tmp_path / "scan.nii"), "-o", str(tmp_path / "out")]
    done = run_python(ROOT, "-c", code, *words, "--backend", "torch")
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "out/scan.nii.gz").shape == (512, 512, 500)
    assert int(done.stdout.split()[-1]) / 1e6 <= 3


def test_it_says_of_itself_what_is_true_and_that_it_has_no_weights(capsys):
    folder = BUNDLES / NAME
    assert count_parameters(read_network(folder)) == count_pocketnet(POCKET, 27, outputs=3) == 150_083
    told = [json.loads((folder / "configs/metadata.json").read_text())["description"]]
    told += [path.read_text() for path in (folder / "docs/README.md", ROOT / "README.md")]
    assert all(text.count(WITHOUT) == 1 for text in told)
    assert not (folder / "models/model.pt").exists()
    outcomes = verify_bundle(folder, names=[name for name in CHECKS if name not in ("run elsewhere", "scores")])
    assert [outcome.detail for outcome in outcomes if outcome.status == "problem"] == []
    main(["info", "-b", str(folder)])
    printed = capsys.readouterr().out
    assert (
        "parameters: 150,083\nFLOPs of a 160 x 160 x 32 patch: " in printed and "weights: none: train first" in printed
    )


def test_a_scan_is_segmented_alike_with_and_without_pytorch_on_its_own_grid(weighted, phantoms, tmp_path):
    case = sorted(phantoms.iterdir())[0]
    for backend in ("torch", "onnxruntime"):
        words = ["segment", "-b", str(weighted), "-i", str(case), "-o", str(tmp_path / backend), "--backend", backend]
        assert main([*words, "--precision", "f32"]) == 0
    image = nib.load(case / "imaging.nii.gz")
    found, exported = (nib.load(tmp_path / b / f"{case.name}.nii.gz") for b in ("torch", "onnxruntime"))
    assert found.shape == image.shape and np.allclose(found.affine, image.affine)
    labels = np.asarray(found.dataobj)
    assert np.bincount(labels.ravel()).min() > 100
    assert (labels != np.asarray(exported.dataobj)).mean() < 1e-3  # ties


def test_what_is_of_slices_alone_is_refused_in_one_line(weighted, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "find_spec", lambda name: None)  # as where PyTorch is not installed
    web = load_script("web_model")
    refused = {
        "precision: expected f32 of a 3-D network": lambda: export_int8(weighted, phantoms, tmp_path),
        "expected a network of slices": lambda: web.main(
            ["--bundle", str(weighted), "--output", str(tmp_path / "web")]
        ),
        "found no models/model.pt": lambda: package_bundles([BUNDLES / NAME], tmp_path / "dist"),
        "expected a configs/inference.json that kits-lite wrote": lambda: scans.open_without_torch(
            weighted, backend="onnxruntime"
        ),
    }
    for words, call in refused.items():
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


def test_channels_are_pruned_and_layers_partitioned(weighted, tmp_path, capsys):
    output = tmp_path / "half_segmentation"
    assert main(["prune", "-b", str(weighted), "-o", str(output), "--method", "channel", "--amount", "0.5"]) == 0
    assert read_network(output).channels == (8,) * 5
    assert WITHOUT not in (output / "configs/metadata.json").read_text()
    capsys.readouterr()
    assert main(["partition", "-b", str(weighted), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert parts["input_shape"] == [1, 1, 32, 32, 8]
    assert sum(part["parameters"] for part in parts["sub_models"]) == 150_083
