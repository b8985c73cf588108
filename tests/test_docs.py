"""The documents: their commands run as they stand, and the references name all that there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

from common.app.cli import app
from common.kits.phantom import write_phantom_dataset
from zoo.pages import read_figure

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "scripts/zoo/skeleton/configs"
# documents whose commands run one after the other in an empty folder beside `kits19`, or in a copy of the bundle
DOCUMENTS = {
    "docs/start.md": False,
    "docs/how_to/segment.md": False,
    "docs/how_to/export.md": False,
    "docs/how_to/prune.md": False,
    "docs/how_to/train.md": True,
}
# what would take hours
SHORTER = {"--epochs 120": "--epochs 1"}
# commands that need more than these phantoms: tests/bundles/test_workflows.py and tests/app/test_prune.py run them
ELSEWHERE = ("torchrun", "--finetune-epochs")
SMALL = """ --windows "{'32': 1}" --spatial_size "[32,32]" --views_per_epoch 8"""


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_run_as_they_stand(document, tmp_path):
    folder = tmp_path / "work"
    if DOCUMENTS[document]:
        shutil.copytree(ROOT / "bundles/kits_pocket_unet_segmentation", folder)
    folder.mkdir(exist_ok=True)
    write_phantom_dataset(folder / "kits19", 5, shape=(8, 48, 48))
    shutil.copy(folder / "kits19/case_00000_synthetic/imaging.nii.gz", folder / "scan.nii.gz")
    bin_dir = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }

    def run(words: list[str] | str, **options: object) -> None:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def run_shell(example) -> None:
        for command in example.parsed.splitlines():
            if any(word in command for word in ELSEWHERE):
                continue
            for long, short in SHORTER.items():
                command = command.replace(long, short)
            if "monai.bundle" in command:
                is_inference = "inference.json" in command
                command += ' --spatial_size "[32,32]"' if is_inference else SMALL
                if not is_inference and "--epochs" not in command and "evaluate" not in command:
                    command += f" --epochs 1 --ckpt_dir models/{len(command)}"  # a training of its own
            run(command, shell=True)

    def run_python(example) -> None:
        bundles = ROOT / "bundles"
        run([sys.executable, "-W", "ignore", "-c", example.parsed.replace('"bundles/', f'"{bundles}/')])

    parsers = [CodeBlockParser(language="bash", evaluator=run_shell), CodeBlockParser("python", evaluator=run_python)]
    examples = list(Sybil(parsers=parsers, patterns=["*.md"]).parse(ROOT / document).examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_every_command_and_option_stands_in_the_reference():
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands
    assert len(commands) >= 8
    for name, command in commands.items():
        section = text.split(f"## `kits-lite {name}`")[1].split("\n## ")[0]
        missing = [option for parameter in command.params for option in parameter.opts if f"{option}" not in section]
        assert not missing, f"{name}: {missing}; remedy: python scripts/build_tables.py"


@pytest.mark.parametrize("config", ["train", "inference"])
def test_every_setting_of_the_configs_stands_in_the_reference(config):
    text = (ROOT / "docs/reference/configs.md").read_text(encoding="utf-8")
    content = json.loads((CONFIGS / f"{config}.json").read_text())
    parts = ("handlers",)
    settings = [key for key, value in content.items() if not isinstance(value, dict | list) or key == "hu_window"]
    settings += [key for key in ("windows", "view_shares") if key in content]
    assert len(settings) > 8
    assert [key for key in settings if key not in parts and f"`{key}`" not in text] == []


def test_the_screenshot_of_the_page_shows_the_weights_that_ship():
    metadata = json.loads((ROOT / "bundles/kits_pocket_unet_segmentation/configs/metadata.json").read_text())
    shown = read_figure(ROOT / "docs/web/screenshot.png")
    assert shown == {
        "weights_sha256": metadata["weights"]["sha256"]
    }  # else docs/how_to/web.md says how to take it anew
