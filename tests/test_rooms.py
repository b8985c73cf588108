"""The rooms of the house: which module may import which, read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what a room may import beside itself and what every room may
MAY_IMPORT = {
    "common": {"common.kits", "common.networks"},
    "common.networks": set(),
    "common.kits": set(),
    "common.compression": {"common.networks"},
    "common.partitioning": {"common.networks", "common.compression"},
    "common.runtimes": {"common.networks", "common.kits"},
    "common.app": {f"common.{room}" for room in ("networks", "kits", "compression", "partitioning", "runtimes")},
    "zoo": {f"common.{room}" for room in ("networks", "kits", "compression", "partitioning", "runtimes", "app")},
}
MAY_IMPORT["common.__main__"] = {"common.app"}
MAY_IMPORT["studies"] = MAY_IMPORT["zoo"] | {"zoo"}
PACKAGES = ("common", "zoo", "studies")
GROUND_FLOOR = {"common"}  # errors, files and the like; nothing above it


def find_room(module: str) -> str:
    """The room of a module: a folder of `common`, its ground floor, or a package of scripts/."""
    first, *rest = module.split(".")
    return f"common.{rest[0]}" if first == "common" and f"common.{'.'.join(rest[:1])}" in MAY_IMPORT else first


def find_imports(module: str, is_package: bool, source: str) -> Iterator[str]:
    """Every module that a source imports, wherever in it, by its whole name."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import x` may mean a module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def list_modules() -> dict[str, Path]:
    paths = [
        (folder, path)
        for folder in (ROOT, ROOT / "scripts")
        for room in PACKAGES
        for path in sorted((folder / room).rglob("*.py"))
    ]
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for folder, path in paths
    }


def find_forbidden(module: str, is_package: bool, source: str) -> list[str]:
    room = find_room(module)
    allowed = MAY_IMPORT[room] | GROUND_FLOOR | {room}
    imports = find_imports(module, is_package, source)
    return [name for name in imports if name.split(".")[0] in PACKAGES and find_room(name) not in allowed]


@pytest.mark.parametrize("module", list_modules())
def test_a_module_imports_only_what_its_room_may(module):
    path = list_modules()[module]
    assert find_forbidden(module, path.name == "__init__.py", path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("common.kits.slices", "from ..networks import LiteUNet", ["common.networks.LiteUNet"]),
        ("common.runtimes.run", "def f():\n    from ..app.segmenter import Box", ["common.app.segmenter.Box"]),
        ("common.app.segmenter", "from zoo.variants import VARIANTS", ["zoo.variants.VARIANTS"]),
        ("zoo.rendering", "import studies.protocol", ["studies.protocol"]),
        ("common.app.segmenter", "from ..runtimes.run import open_network\nfrom ..errors import InputError", []),
        ("studies.protocol", "from zoo.rendering import BUNDLES\nimport torch", []),
    ],
)
def test_an_import_against_the_direction_is_found(module, source, found):
    assert find_forbidden(module, False, source) == found


def test_every_module_says_in_its_first_line_what_it_is():
    assert [name for name, path in list_modules().items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_every_module_holds_at_most_400_lines():
    assert {name for name, path in list_modules().items() if len(path.read_text().splitlines()) > 400} == set()
