"""What docs/security.md promises and no other test holds: who loads weights how, and what the pages make of a name."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest
import torch
from refusals import error_message

from common.app.report import write_index
from common.networks import LiteUNet, load_weights

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("common", "scripts") for path in (ROOT / folder).rglob("*.py"))


def find_calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of a function by its dotted name, with the file."""
    found = []
    for path in SOURCES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        calls = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name)
        found += [(str(path.relative_to(ROOT)), call) for call in calls]
    return found


def test_every_file_of_weights_is_loaded_as_weights_only():
    calls = find_calls("torch.load")
    assert len(calls) >= 3
    for path, call in calls:
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert told.get("weights_only") == "True", f"{path}:{call.lineno}"


@pytest.mark.parametrize(
    "name", ["pickle.load", "pickle.loads", "eval", "exec", "os.system", "yaml.load", "marshal.loads"]
)
def test_nothing_runs_what_a_file_says(name):
    assert find_calls(name) == []


class Harm:
    """Pickles to a call that writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.target, "harm")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_weights_that_would_run_code_are_refused_in_one_line(tmp_path, save):
    save({"head.bias": Harm(tmp_path / "harmed")}, tmp_path / "model.pt")
    message = error_message(lambda: load_weights(LiteUNet(channels=[8] * 5), tmp_path / "model.pt"))
    assert "model.pt: expected a PyTorch state dict" in message and "\n" not in message
    assert not (tmp_path / "harmed").exists()


def test_a_wild_name_neither_runs_nor_leads_away_in_an_index(tmp_path):
    names = ["javascript:alert(1)", "<script>alert(1)</script>", '"onmouseover="alert(1)', "a#b?c%20d"]
    write_index(tmp_path / "index.html", [{"case": name, "report": f"{name}.html"} for name in names])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and '"onmouseover' not in page
    links = [part.partition('"')[0] for part in page.split('href="')[1:]]
    assert len(links) == len(names)
    assert not [link for link in links if ":" in link or "#" in link or "?" in link]
