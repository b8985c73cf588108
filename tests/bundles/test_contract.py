"""What MONAI and MONAI Label expect of a bundle folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_runs import BUNDLES, NAMES, NAMES_3D, ROOT, SCHEMA
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from torch import nn

from common.compression.complexity import count_flops, count_nonzero_parameters, count_parameters
from common.kits.cases import make_split
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights
from zoo.records import ELSEWHERE
from zoo.rendering import PACKAGE
from zoo.verification.bundle import list_strings

# the config files of a workflow, and what MONAI calls it
WORKFLOWS = {
    ("train",): "train",
    ("train", "prune"): "train",
    ("train", "bfloat16"): "train",
    ("train", "gpu"): "train",
    ("train", "evaluate"): "train",
    ("inference",): "infer",
    ("inference", "inference_onnx"): "infer",
    ("inference", "inference_openvino"): "infer",
}
KEY_ORDER = ["imports", "bundle_root", "dataset_dir", "output_dir", "device", "network_def", "network"]


@pytest.fixture(params=NAMES + NAMES_3D)
def bundle(request, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(BUNDLES / request.param))
    monkeypatch.chdir(BUNDLES / request.param)
    return BUNDLES / request.param


@pytest.mark.parametrize("configs", WORKFLOWS, ids=" ".join)
def test_no_required_property_is_missing(bundle, configs, phantoms, tmp_path):
    if "gpu" in configs and bundle.name in NAMES_3D:
        pytest.skip("gpu.json is of slices alone")
    make_split(phantoms, tmp_path / "split.json")  # as training leaves it
    weights = tmp_path / "model.pt"
    save_weights(read_network(configs[0]), weights)
    arguments = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)}
    arguments |= {"spatial_size": [32, 32], "patch_size": [32, 32, 8], "weights": str(weights)}
    if "train" in configs:
        arguments["windows"] = {"32": 1}
    if "prune" in configs:
        arguments["pretrained"] = str(weights)
    if configs == ("inference",):
        arguments["backend"] = "torch"  # exporting has tests of its own
    files = [f"configs/{name}.json" for name in configs]
    workflow = ConfigWorkflow(config_file=files, workflow_type=WORKFLOWS[configs], logging_file=False, **arguments)
    workflow.initialize()
    assert workflow.check_properties() == []


def read_network(config: str) -> nn.Module:
    parser = ConfigParser()
    parser.read_config(f"configs/{config}.json")
    return parser.get_parsed_content("network_def")


def test_metadata_follows_the_schema(bundle, tmp_path):
    verify_metadata(meta_file="configs/metadata.json", filepath=str(SCHEMA))
    metadata = json.loads(Path("configs/metadata.json").read_text())
    del metadata["version"]
    broken = tmp_path / "metadata.json"
    broken.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="version"):
        verify_metadata(meta_file=str(broken), filepath=str(SCHEMA))


def test_every_file_that_the_metadata_name_is_in_the_bundle_or_said_to_be_elsewhere(bundle):
    """Without the network, and without this checkout: a downloaded bundle has nothing else."""
    places = {}
    metadata = json.loads(Path("configs/metadata.json").read_text())
    for line in list_strings(metadata):
        path = r"(?<![\w:/.-])(?:[\w-]+/)*[\w-]+\.(?:csv|json|md|onnx|pt|py|txt)\b"
        places |= dict.fromkeys(re.findall(path, line), ROOT if line.startswith(ELSEWHERE) else Path())
    if "weights" in metadata:
        assert {"models/model.pt", "docs/protocol.md", "scripts/verify_bundles.py"} <= places.keys()
    assert [name for name, place in places.items() if not (place / name).is_file()] == []


@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_takes_and_gives_what_the_metadata_says(bundle, config):
    verify_net_in_out(
        net_id="network_def",
        meta_file="configs/metadata.json",
        config_file=f"configs/{config}.json",
        device="cpu",
    )


def test_complexity_in_the_metadata_is_what_the_network_counts(bundle):
    complexity = json.loads(Path("configs/metadata.json").read_text())["complexity"]
    for config in ("train", "inference"):
        network = read_network(config)
        assert count_parameters(network) == complexity["parameters"]
        assert count_flops(network, complexity["input_shape"]) == complexity["flops"]


def test_what_the_metadata_says_of_pruning_is_recounted(bundle):
    complexity = json.loads(Path("configs/metadata.json").read_text())["complexity"]
    if "original" in complexity:
        original = dict(complexity["original"])
        definition = json.loads(Path("configs/inference.json").read_text())["network_def"]
        del definition["_target_"]
        network = LiteUNet(**definition | {"channels": original.pop("channels")})
        shape = complexity["input_shape"]
        assert original == {"parameters": count_parameters(network), "flops": count_flops(network, shape)}
    weights = bundle / "models/model.pt"
    if "nonzero_parameters" in complexity:
        network = load_weights(read_network("inference"), weights)
        nonzero = count_nonzero_parameters(network)
        assert complexity["nonzero_parameters"] == nonzero
        assert complexity["sparsity"] == round(1 - nonzero / complexity["parameters"], 6)
        assert f"{nonzero:,} of the" in Path("docs/README.md").read_text()
        # the dense U-Net alone may be larger, in half precision
        assert weights.stat().st_size < (65e6 if bundle.name == NAMES[0] else 25e6)


def test_configs_keep_their_key_order_and_stand_alone(bundle):
    for config in ("train", "inference"):
        content = json.loads(Path(f"configs/{config}.json").read_text())
        positions = [list(content).index(key) for key in KEY_ORDER]
        assert positions == sorted(positions)
        assert list(content)[-1] == "run"


def test_targets_name_the_shipped_package_only(bundle):
    for config in Path("configs").glob("*.json"):
        names = re.findall(r'"(?:_target_|writer)": "([^"]+)"', config.read_text())
        ours = [name for name in names if "." in name and not name.startswith(("torch.", "monai.", "kornia."))]
        assert all(name.startswith(f"{PACKAGE}.") for name in ours), config


def test_no_file_names_an_absolute_path(bundle):
    for path in bundle.rglob("*"):
        if path.suffix in (".json", ".conf", ".md", ".txt", ".py") and "eval" not in path.relative_to(bundle).parts:
            assert not re.search(r"""["'\s](/home|/root|/work|/tmp)/""", path.read_text()), path


def test_shipped_code_works_without_the_repository(bundle, tmp_path):
    """Every module of the copy is imported where `common` cannot be found."""
    modules = [
        ".".join(path.relative_to(bundle).with_suffix("").parts) for path in sorted(bundle.glob(f"{PACKAGE}/**/*.py"))
    ]
    code = (
        "import importlib, sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        f"sys.path[:] = [{str(bundle)!r}] + [p for p in sys.path if 'site-packages' in p or 'python3' in p]\n"
        f"for module in {modules}: importlib.import_module(module.removesuffix('.__init__'))\n"
        "assert 'common' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
