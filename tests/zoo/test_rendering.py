"""Rendering and drift: the bundles are what common/ says, to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import __version__
from zoo.rendering import PACKAGE, REMEDY, find_drift, render, write_bundle
from zoo.variants import VARIANTS, VARIANTS_3D

ROOT = Path(__file__).resolve().parents[2]
POCKET = VARIANTS[-1]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """All bundles, freshly written."""
    folder = tmp_path_factory.mktemp("bundles")
    for variant in (*VARIANTS, *VARIANTS_3D):
        write_bundle(variant, folder)
    return folder


def test_the_committed_bundles_have_not_drifted():
    assert find_drift(ROOT / "bundles") == [], REMEDY


def test_a_fresh_bundle_has_not_drifted(written):
    assert find_drift(written) == []


@pytest.mark.parametrize(
    "name", ["configs/train.json", f"{PACKAGE}/networks/lite_unet.py", "docs/README.md", "LICENSE"]
)
def test_one_changed_byte_is_drift(written, name):
    path = written / POCKET.name / name
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert find_drift(written) == [f"{POCKET.name}/{name}: differs"]
    path.write_bytes(content)


def test_a_missing_and_a_foreign_file_are_drift(written):
    path = written / POCKET.name / "configs/inference.json"
    content = path.read_bytes()
    path.unlink()
    foreign = written / POCKET.name / "scripts" / "net.py"
    foreign.parent.mkdir()
    foreign.write_text("")
    assert find_drift(written) == [
        f"{POCKET.name}/configs/inference.json: missing",
        f"{POCKET.name}/scripts/net.py: not rendered",
    ]
    path.write_bytes(content)
    write_bundle(POCKET, written)
    assert not foreign.exists() and find_drift(written) == []


def test_weights_and_output_of_runs_are_no_drift_and_are_kept(written):
    kept = [written / POCKET.name / name for name in ("models/model.pt", "eval/metrics.csv")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
    assert find_drift(written) == []
    write_bundle(POCKET, written)
    assert all(path.read_text() == "kept" for path in kept)


def test_the_package_of_another_version_is_removed(written):
    old = written / POCKET.name / "kits_lite_v0_0_1" / "networks"
    old.mkdir(parents=True)
    (old / "lite_unet.py").write_text("")
    assert find_drift(written) == [f"{POCKET.name}/kits_lite_v0_0_1/networks/lite_unet.py: not rendered"]
    write_bundle(POCKET, written)
    assert not old.parent.exists()


def test_the_check_on_the_command_line_fails_with_the_remedy(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/build_bundles.py"), "--bundles", str(tmp_path)]
    for check, code in ((["--check"], 1), ([], 0), (["--check"], 0)):
        done = subprocess.run(command + check, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert (REMEDY in done.stdout) == (code == 1)
        if code:
            assert done.stdout.strip().splitlines()[-1] == REMEDY
    assert "python scripts/build_bundles.py" in REMEDY


def test_all_of_common_ships_and_nothing_else():
    files = render(POCKET)
    shipped = {name.removeprefix(f"{PACKAGE}/") for name in files if name.startswith(PACKAGE)}
    sources = {str(path.relative_to(ROOT / "common")) for path in (ROOT / "common").rglob("*.*") if path.is_file()}
    assert shipped == {name for name in sources if "__pycache__" not in name}
    assert all(files[f"{PACKAGE}/{name}"] == (ROOT / "common" / name).read_bytes() for name in shipped)
    assert PACKAGE.endswith(__version__.replace(".", "_"))


def test_a_variant_differs_from_the_skeleton_only_where_it_says():
    for name in ("train", "inference"):
        skeleton = json.loads((ROOT / f"scripts/zoo/skeleton/configs/{name}.json").read_text())
        for variant in VARIANTS:
            config = json.loads(render(variant)[f"configs/{name}.json"])
            overrides = variant.preprocessing | (variant.training if name == "train" else {})
            assert config.pop("network_def") == {
                **skeleton["network_def"],
                **variant.network,
                "_target_": f"{PACKAGE}.networks.LiteUNet",
            }
            for key, value in overrides.items():
                assert config.pop(key) == value
            expected = json.loads(json.dumps(skeleton).replace('"common.', f'"{PACKAGE}.'))
            assert config == {key: expected[key] for key in config}
            assert expected.keys() - config.keys() == {"network_def", *overrides}
