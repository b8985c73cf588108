"""Every check of a bundle: a good bundle passes, and one that is broken in exactly that way does not."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import POCKET, ROOT

from common.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.errors import InputError
from common.files import hash_file
from common.kits.cases import find_cases
from common.networks import LiteUNet, load_weights
from common.networks.weights import read_weights, save_weights
from common.segmentation import Segmenter
from common.zoo.bundling import PACKAGE, write_bundle
from common.zoo.variants import VARIANTS
from common.zoo.verification import CHECKS, FILES, verify_bundle
from common.zoo.verification.label_order import find_listings

CHANNELS, WIDER = [16] * 5, [20] * 5
METADATA, README, WEIGHTS = "configs/metadata.json", "docs/README.md", "models/model.pt"
FOLDS = [[0, 1], [2], [3]]
LABELS = "0 background, 1 kidney, 2 tumor"
SWAPPED = "0 background, 1 tumor, 2 kidney"
SCORE = "python scripts/score.py --labels kits19 --predictions out"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def dice(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Dice pooled over the voxels of all pairs of label maps."""
    masks = {"kidney_and_tumor": lambda m: m > 0, "tumor": lambda m: m > 1}
    scores = {}
    for name, mask in masks.items():
        counts = np.array([[(mask(a) & mask(b)).sum(), mask(a).sum(), mask(b).sum()] for a, b in pairs]).sum(axis=0)
        scores[name] = float(2 * counts[0] / (counts[1] + counts[2]))
    return scores


@pytest.fixture(scope="module")
def good(tmp_path_factory, phantoms) -> Path:
    """A repository with one bundle, Pocket U-Net with untrained weights, whose metadata is true."""
    root = tmp_path_factory.mktemp("repository")
    bundle = write_bundle(next(v for v in VARIANTS if v.name == POCKET), root / "bundles")
    (root / "scripts").symlink_to(ROOT / "scripts")
    torch.manual_seed(0)
    network = LiteUNet(channels=CHANNELS)
    next(network.parameters()).data[:4] = 0
    save_weights(network, bundle / WEIGHTS)
    edit(bundle / "configs/inference.json", lambda config: config.update(spatial_size=[32, 32]))

    cases, predictions = find_cases(phantoms), root / "docs/cross_validation" / POCKET
    predictions.mkdir(parents=True)
    segmenter, ours, folds = Segmenter(bundle), [], []
    labels = [np.asarray(nib.load(case["label"]).dataobj) for case in cases]
    moved = [np.roll(label, 1 + index, axis=1) for index, label in enumerate(labels)]
    for case, label, prediction in zip(cases, labels, moved):
        affine = nib.load(case["label"]).affine
        nib.save(nib.Nifti1Image(prediction, affine), predictions / f"{case['case']}.nii.gz")
        ours.append((segmenter.segment(case).label_map, label))
    for number, held_out in enumerate(FOLDS, start=1):
        path = root / f"docs/folds/fold_{number}.json"
        path.parent.mkdir(exist_ok=True)
        names = [[case["case"] for i, case in enumerate(cases) if (i in held_out) == side] for side in (False, True)]
        path.write_text(json.dumps(dict(zip(("training", "validation"), names))))
        fold = dice([(moved[i], labels[i]) for i in held_out])
        folds.append({"split_file": f"docs/folds/{path.name}", **fold})

    def record(metadata: dict) -> None:
        for tensor in (metadata["network_data_format"]["inputs"]["image"], pred(metadata)):
            tensor["spatial_shape"] = [32, 32]
        nonzero, parameters = count_nonzero_parameters(network), count_parameters(network)
        assert nonzero < parameters
        metadata["complexity"] |= {"nonzero_parameters": nonzero, "sparsity": round(1 - nonzero / parameters, 6)}
        wider = LiteUNet(channels=WIDER)
        counted = {"parameters": count_parameters(wider), "flops": count_flops(wider)}
        metadata["complexity"]["original"] = {"channels": WIDER, **counted}
        file = {"file": WEIGHTS, "bytes": (bundle / WEIGHTS).stat().st_size, "sha256": hash_file(bundle / WEIGHTS)}
        metadata["weights"] = file
        metadata["scores"] = {
            "cross_validation": {
                **dice(list(zip(moved, labels))),
                "folds": folds,
                "predictions": f"docs/cross_validation/{POCKET}",
                "command": SCORE,
            },
            "shipped_weights": {"cases": 4, **dice(ours), "command": f"{SCORE} && {SCORE}"},
        }
        scores = [*dice(ours).values(), *dice(list(zip(moved, labels))).values()]
        assert all(0 < score < 1 for score in scores)

    edit(bundle / METADATA, record)
    return bundle


def pred(metadata: dict) -> dict:
    return metadata["network_data_format"]["outputs"]["pred"]


@pytest.fixture
def broken(good, tmp_path) -> Path:
    """A copy of the good bundle in a repository of its own, to be broken."""
    copy = tmp_path / "repository"
    # without compiled code: an edit within the second, of the same length, would not be seen
    shutil.copytree(good.parents[1], copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy / "bundles" / POCKET


def find_problems(bundle: Path, phantoms: Path | None, *names: str) -> list[str]:
    outcomes = verify_bundle(bundle, phantoms, names)
    assert {outcome.status for outcome in outcomes} <= {"ok", "problem"}, outcomes
    return [outcome.detail for outcome in outcomes if outcome.status == "problem"]


@pytest.mark.slow
def test_a_good_bundle_passes_every_check(good, phantoms):
    modules, path = dict(sys.modules), list(sys.path)
    outcomes = verify_bundle(good, phantoms)
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert [outcome for outcome in outcomes if outcome.status != "ok"] == []
    ours = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    assert sys.path == path and ours == {name: modules[name] for name in modules if name.startswith(PACKAGE)}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    assert find_problems(broken, None, "files") == [f"{name}: expected a file, found none"]


def test_a_config_that_is_no_json_is_named(broken):
    (broken / "configs/train.json").write_text("{")
    (problem,) = find_problems(broken, None, "files")
    assert problem.startswith("configs/train.json: expected JSON, found ")


def set_io(side: str, name: str, **values: object) -> Callable[[dict], object]:
    return lambda metadata: metadata["network_data_format"][side][name].update(values)


def add(amount: float, *keys: str | int) -> Callable[[dict], None]:
    """Add to the number that keys lead to."""

    def change(metadata: dict) -> None:
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] += amount

    return change


SWAP = set_io("outputs", "pred", channel_def={"0": "background", "1": "tumor", "2": "kidney"})
# what the metadata says, the check that is to find it out, and its problems
METADATA_BREAKS = [
    (lambda m: m.pop("version"), "metadata schema", ["found 'version' is a required property"]),
    (
        set_io("outputs", "pred", num_channels="3"),
        "metadata schema",
        ["demands, found '3' is not of type 'integer'"],
    ),
    (lambda m: m.update(numpy_version="1.0"), "versions", [f"numpy: expected 1.0, found {np.__version__}"]),
    (
        lambda m: m["required_packages_version"].update({"nibabel": "0.1", "no-such-package": "2"}),
        "versions",
        [f"nibabel: expected 0.1, found {nib.__version__}", "no-such-package: expected 2, found none installed"],
    ),
    (lambda m: m.update(version="9.9"), "changelog", ["changelog: expected 9.9, found 0.1.0"]),
    (SWAP, "label_classes", [f"label_classes: expected {SWAPPED}, found {LABELS}"]),
    (SWAP, "pred_classes", [f"pred_classes: expected {SWAPPED}, found {LABELS}"]),
    (SWAP, "labels in the README", [f"docs/README.md: expected {SWAPPED}, found {LABELS}"]),
    (
        SWAP,
        "labels in the code",
        [f"volumes.py LABELS: expected {SWAPPED}, found {LABELS}"],
    ),
    (lambda m: m.update(label_classes="1 tumour, 2 kidney"), "label_classes", ["found 1 tumor, 2 kidney"]),
    (
        set_io("outputs", "pred", num_channels=4),
        "network",
        ["pred.num_channels: expected 4, found 3", "channel_def: expected [0, 1, 2, 3], found [0, 1, 2]"],
    ),
    (set_io("inputs", "image", num_channels=2), "network", ["expected a network that takes (1, 2, 32, 32), found"]),
    (set_io("outputs", "pred", spatial_shape=[16, 32]), "network", ["expected [16, 32], found [32, 32]"]),
    (set_io("outputs", "pred", dtype="float16"), "network", ["pred.dtype: expected float16, found float32"]),
    (add(1, "weights", "bytes"), "weights file", ["models/model.pt bytes: expected "]),
    (add(1, "complexity", "parameters"), "complexity", ["complexity.parameters: expected 53028, found 53027"]),
    (add(2, "complexity", "flops"), "complexity", ["complexity.flops: expected 1775501314, found 1775501312"]),
    (add(1, "complexity", "original", "parameters"), "complexity", ["complexity.original.parameters: expected"]),
    (add(2, "complexity", "original", "flops"), "complexity", ["complexity.original.flops: expected"]),
    (add(1, "complexity", "nonzero_parameters"), "sparsity", ["complexity.nonzero_parameters: expected"]),
    (add(0.001, "complexity", "sparsity"), "sparsity", ["complexity.sparsity: expected"]),
    (
        lambda m: m["scores"]["shipped_weights"].update(command="python scripts/score.py --label x"),
        "documented commands",
        ["scores.shipped_weights.command: scripts/score.py --label: expected an option of the script, found none"],
    ),
    (
        add(0.001, "scores", "shipped_weights", "tumor"),
        "Dice of the shipped weights",
        ["scores.shipped_weights.tumor: expected"],
    ),
    (
        add(1, "scores", "shipped_weights", "cases"),
        "Dice of the shipped weights",
        ["scores.shipped_weights: expected 5 cases, found 4"],
    ),
    (
        add(-0.001, "scores", "cross_validation", "kidney_and_tumor"),
        "Dice of the cross-validation",
        ["scores.cross_validation.kidney_and_tumor: expected"],
    ),
    (
        add(0.001, "scores", "cross_validation", "folds", 1, "tumor"),
        "Dice of the cross-validation",
        ["scores.cross_validation docs/folds/fold_2.json.tumor: expected"],
    ),
]


@pytest.mark.parametrize(
    ("change", "check", "expected"), METADATA_BREAKS, ids=[f"{b[1]} {i}" for i, b in enumerate(METADATA_BREAKS)]
)
def test_metadata_that_is_not_true_is_found_out(change, check, expected, broken, phantoms):
    edit(broken / METADATA, change)
    problems = find_problems(broken, phantoms, check)
    assert len(problems) == len(expected), problems
    assert all(words in problem for words, problem in zip(expected, problems)), problems


@pytest.mark.parametrize(
    ("name", "old", "new", "check", "expected"),
    [
        (README, "1 kidney, 2 tumour", "1 tumour, 2 kidney", "labels in the README", f"{LABELS}, found {SWAPPED}"),
        (
            f"{PACKAGE}/kits/volumes.py",
            '"kidney": 1, "tumor": 2',
            '"kidney": 2, "tumor": 1',
            "labels in the code",
            f"{PACKAGE}/kits/volumes.py LABELS: expected {LABELS}, found {SWAPPED}",
        ),
        (
            f"{PACKAGE}/kits/inferer.py",
            "choose_classes(logits)",
            "choose_classes(logits.flip(1))",
            "labels in the code",
            f"codes that the inferer writes: expected {LABELS}, found 0 tumor, 1 kidney, 2 background",
        ),
        (
            "configs/inference.json",
            ".LiteUNet",
            ".NoUNet",
            "network",
            "network: expected no error, found ModuleNotFoundError",
        ),
        (
            "configs/inference.json",
            '"dataset_dir": "data"',
            '"dataset_dir": "/home/someone/kits"',
            "absolute paths",
            "configs/inference.json: expected no absolute path, found /home/someone/kits",
        ),
        (
            f"{PACKAGE}/kits/phantom.py",
            "from __future__",
            'HERE = "C:\\\\data"\nfrom __future__',
            "absolute paths",
            f"{PACKAGE}/kits/phantom.py: expected no absolute path, found C:",
        ),
    ],
)
def test_a_file_that_contradicts_the_metadata_is_found_out(name, old, new, check, expected, broken):
    text = (broken / name).read_text()
    assert old in text
    (broken / name).write_text(text.replace(old, new))
    (problem,) = find_problems(broken, None, check)
    assert expected in problem


RUN = "python -m monai.bundle"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{RUN} run --config_file configs/trian.json", "configs/trian.json: expected a file, found none"),
        (f"{RUN} run --config_file configs/train.json --epohcs 3", "epohcs: expected a key of train.json, found none"),
        (
            "torchrun -m monai.bundle run --config_file \"['configs/train.json','configs/evaluate.json']\" --subst all",
            "subst: expected a key of train.json, evaluate.json, found none",
        ),
        (f"{RUN} run training --config_file=configs/train.json", "training: expected a key of train.json, found none"),
        (f"{RUN} run \\\n  --config_file configs/train.json \\\n  --optimizer#rl 1", "optimizer#rl: expected a key of"),
        (f"{RUN} rnu --config_file configs/train.json", "expected a command of monai.bundle, found rnu"),
        (f"{RUN} run --config_file 'configs/train.json", "expected a command line, found No closing quotation in"),
        ("Options are `--epochs 3` and `--epohcs 3`.", "--epohcs: expected a key of a config, found none"),
        ("python scripts/scroe.py --labels D", "scripts/scroe.py: expected a script, found none"),
        ("cd .. && python scripts/score.py --label D", "scripts/score.py --label: expected an option of the script"),
    ],
)
def test_a_documented_command_that_does_not_exist_is_found_out(line, expected, broken):
    with (broken / README).open("a") as file:
        file.write(f"\n    {line}\n")
    (problem,) = find_problems(broken, None, "documented commands")
    assert problem.startswith("docs/README.md: ") and expected in problem


@pytest.mark.parametrize(
    "line",
    [
        f"{RUN} run --config_file \"['configs/train.json','configs/prune.json']\" --amount 1 --network_def#channels 3",
        f"{RUN} run run --config-file=/path/to/x/configs/train.json --optimizer#lr 1 --meta_file configs/metadata.json",
        f"{RUN} verify_net_in_out network_def --config_file configs/inference.json --meta_file configs/metadata.json",
        "python scripts/score.py --labels D --predictions O > log; ls --color",
        "`python` runs it; don't worry about `--epochs`",
    ],
)
def test_commands_that_exist_are_left_in_peace(line, broken):
    with (broken / README).open("a") as file:
        file.write(f"\n    {line}\n")
    assert find_problems(broken, None, "documented commands") == []


def test_a_changed_weight_is_found_out_by_the_sha256(broken):
    network = load_weights(LiteUNet(channels=CHANNELS), broken / WEIGHTS)
    next(network.parameters()).data[-1, 0, 0, 0] += 0.001
    before = hash_file(broken / WEIGHTS)
    save_weights(network, broken / WEIGHTS)
    problems = find_problems(broken, None, "weights file")
    assert f"models/model.pt sha256: expected {before}, found {hash_file(broken / WEIGHTS)}" in problems


def test_a_weight_that_is_missing_is_named(broken):
    weights = read_weights(broken / WEIGHTS)
    name = sorted(weights)[3]
    del weights[name]
    torch.save(weights, broken / WEIGHTS)
    (problem,) = find_problems(broken, None, "state dict")
    assert problem == f"models/model.pt: weights of another network: expected {name}, found no such key."
    (outcome,) = verify_bundle(broken, None, ["sparsity"])
    assert (outcome.status, outcome.detail) == ("not recomputed", "models/model.pt does not fit network_def")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tensors load onto the GPU here, and are found out there")
def test_weights_saved_on_a_gpu_are_found_out(broken):
    path = broken / WEIGHTS
    torch.save(read_weights(path), path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in records.items():
            if name.endswith("data.pkl"):  # where a pickled tensor says on which device it was
                assert b"X\x03\0\0\0cpu" in content
                content = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            target.writestr(name, content)
    (problem,) = find_problems(broken, None, "weights on the CPU")
    assert problem.startswith("models/model.pt: expected a file that loads on the CPU, found ") and "CUDA" in problem


@pytest.mark.slow
def test_a_path_that_holds_in_one_folder_only_is_found_out(broken):
    edit(broken / "configs/inference.json", lambda config: config.update(weights=WEIGHTS))
    (problem,) = find_problems(broken, None, "run elsewhere")
    assert "run in another folder: expected exit code 0, found 1: " in problem and "no weights here" in problem


def test_other_predictions_are_found_out(broken, phantoms):
    repository = broken.parents[1]
    path = sorted((repository / "docs/cross_validation" / POCKET).iterdir())[2]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 3, axis=2), image.affine), path)
    problems = find_problems(broken, phantoms, "Dice of the cross-validation")
    where = [re.match(r"scores\.cross_validation(.*)\.\w+: expected", problem)[1] for problem in problems]
    assert where == [" docs/folds/fold_2.json"] * 2 + [""] * 2
    path.unlink()
    (problem,) = find_problems(broken, phantoms, "Dice of the cross-validation")
    assert problem == f"{path}: expected a NIfTI file, found none."


def test_a_case_held_out_twice_is_found_out(broken, phantoms):
    repository = broken.parents[1]
    names = {}
    edit(repository / "docs/folds/fold_2.json", names.update)
    edit(repository / "docs/folds/fold_3.json", lambda split: split.update(names))
    problems = find_problems(broken, phantoms, "Dice of the cross-validation")
    assert f"scores.cross_validation: expected {names['validation'][0]} held out once, found 2 times" in problems


def test_no_dice_is_called_good_that_was_not_recomputed(broken, phantoms):
    scores = ["Dice of the cross-validation", "Dice of the shipped weights"]
    for outcome in verify_bundle(broken, None, scores):
        assert (outcome.status, outcome.detail) == ("not recomputed", "no data")
    shutil.rmtree(broken.parents[1] / "docs/cross_validation")
    (broken / WEIGHTS).unlink()
    outcomes = verify_bundle(broken, phantoms, scores)
    assert [(o.status, o.detail) for o in outcomes] == [
        ("not recomputed", "no data"),
        ("not recomputed", f"no {WEIGHTS}"),
    ]


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        (METADATA, {"state dict", "weights on the CPU", "absolute paths"}),
        (
            "configs/inference.json",
            {"metadata schema", "versions", "changelog", "label_classes", "pred_classes", "labels in the README"}
            | {"weights on the CPU", "weights file", "absolute paths", "documented commands"},
        ),
        (
            WEIGHTS,
            {"metadata schema", "versions", "changelog", "label_classes", "pred_classes", "labels in the README"}
            | {"labels in the code", "network", "complexity", "absolute paths", "documented commands"},
        ),
    ],
)
def test_what_a_missing_file_hides_is_not_called_good(name, seen, broken):
    (broken / name).unlink()
    (broken / README).write_text(LABELS)
    scores = {"Dice of the cross-validation", "Dice of the shipped weights"}
    outcomes = verify_bundle(broken, None, [check for check in CHECKS if check not in scores | {"run elsewhere"}])
    assert {outcome.name for outcome in outcomes if outcome.status == "ok"} == seen
    assert [outcome.name for outcome in outcomes if outcome.status == "problem"] == ["files"]
    assert all(name in outcome.detail for outcome in outcomes if outcome.name not in seen), outcomes


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, {size}, padding="same")
    def forward(self, x):
        return self.conv(x)
"""


def write_stranger(good: Path, folder: Path, size: int) -> Path:
    """A bundle of another make, whose code lies in scripts/ and whose metadata says the least."""
    for name in ("LICENSE", "docs/data_license.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good / name, folder / name)
    for name in ("configs", "scripts", "models"):
        (folder / name).mkdir()
    metadata = json.loads((good / METADATA).read_text())
    for key in ("complexity", "weights", "scores"):
        del metadata[key]
    texts = {"label_classes": "1 is spleen, 0 is everything else", "pred_classes": "3 channels"}
    (folder / METADATA).write_text(json.dumps(metadata | texts))
    (folder / README).write_text("A network.\n")
    (folder / "configs/inference.json").write_text(json.dumps({"network_def": {"_target_": "scripts.net.Net"}}))
    (folder / "scripts/net.py").write_text(NET.format(size=size))
    torch.save(
        {"conv.weight": torch.zeros(3, 1, size, size), "conv.bias": torch.zeros(3)}, folder / WEIGHTS
    )  # fmt: skip
    return folder


def test_bundles_of_strangers_are_told_apart_and_need_not_record_what_ours_do(good, phantoms, tmp_path):
    path = list(sys.path)
    for size in (1, 3):
        stranger = write_stranger(good, tmp_path / f"size_{size}" / "bundle", size)
        outcomes = {outcome.name: outcome for outcome in verify_bundle(stranger, phantoms)}
        not_recorded = {name for name, outcome in outcomes.items() if outcome.status == "not recorded"}
        assert not_recorded == {
            "label_classes", "pred_classes", "labels in the README", "labels in the code", "weights file", "complexity",
            "sparsity", "run elsewhere", "Dice of the cross-validation", "Dice of the shipped weights",
        }  # fmt: skip
        assert all(outcomes[name].status == "ok" for name in CHECKS.keys() - not_recorded), outcomes
    assert sys.path == path and "scripts.net" not in sys.modules


def test_a_schema_that_is_not_here_is_not_called_good(broken):
    edit(broken / METADATA, lambda m: m.update(schema="https://example.org/meta_schema_19990101.json"))
    (outcome,) = verify_bundle(broken, None, ["metadata schema"])
    assert (outcome.status, outcome.detail) == ("not recomputed", "no copy of the schema meta_schema_19990101.json")


def test_no_folder_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a bundle folder, found none"):
        verify_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "listings"),
    [
        ("Labels: 0 background, 1 kidney, 2 tumour; a cyst (3) counts", [{0: "background", 1: "kidney", 2: "tumor"}]),
        ("0: background; 1: Tumour", [{0: "background", 1: "tumor"}]),
        ("1 kidney,\n2 tumour and 3 cyst", [{1: "kidney", 2: "tumor", 3: "cyst"}]),
        ("0.84 kidney, 0.77 tumor; 19 cases, 3 slices; 2 kidneys", []),
    ],
)
def test_numbered_labels_are_found_in_a_text(text, listings):
    assert find_listings(text, ["background", "kidney", "tumor"]) == listings
