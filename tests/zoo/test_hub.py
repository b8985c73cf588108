"""What is written for hubs: a card that Hugging Face parses, large files that MONAI fetches, and no dead reference."""

from __future__ import annotations

import csv
import json
import re

import pytest
from bundle_runs import BUNDLES, POCKET
from monai.bundle import download_large_files
from refusals import error_message

from zoo.hub import write_for_hub
from zoo.packaging import read_content
from zoo.rendering import render, strip_links
from zoo.variants import VARIANTS

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install .[dev]")

POCKET_VARIANT = next(variant for variant in VARIANTS if variant.name == POCKET)


@pytest.fixture(scope="module")
def scored():
    """Pocket U-Net as it ships, with scores."""
    return BUNDLES / POCKET


def test_hugging_face_reads_licence_tags_and_scores_from_the_card(scored, tmp_path):
    (folder,) = write_for_hub("huggingface", [scored], tmp_path / "out", repository="https://example.org/zoo")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-sa-4.0", "monai")
    assert {"monai", "ct", "kidney"} <= {*card.data.tags}
    scores = json.loads((folder / "configs/metadata.json").read_text())["scores"]
    found = {(result.dataset_name, result.metric_name): result.metric_value for result in card.data.eval_results}
    for what, values in (("slices of 32 patients", scores["patients"]["pooled"]), ("one whole scan", scores["scan"])):
        for name, key in (("Dice, kidney and tumor", "kidney_and_tumor"), ("Dice, tumor", "tumor")):
            (value,) = [v for (dataset, metric), v in found.items() if what in dataset and metric == name]
            assert value == values[key]
    assert f"{scores['scan']['kidney_and_tumor']:.3f} for kidney and tumor together" in card.text
    assert "Research only" in card.text and "https://example.org/zoo" in card.text
    assert {*read_content(scored).files} | {"README.md"} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def test_a_bundle_without_scores_gets_a_card_without(weighted_bundle, tmp_path):
    (folder,) = write_for_hub("huggingface", [weighted_bundle], tmp_path / "out")
    assert not huggingface_hub.ModelCard.load(folder / "README.md").data.eval_results


def test_monai_fetches_the_large_files_of_the_model_zoo_s_entry(weighted_bundle, tmp_path):
    url = (tmp_path / "out").as_uri()
    (folder,) = write_for_hub("model-zoo", [weighted_bundle], tmp_path / "out", base_url=url, large_bytes=100_000)
    weights = folder / "models/model.pt"
    assert folder == tmp_path / "out/models" / POCKET and not weights.exists()
    download_large_files(bundle_path=str(folder))
    assert weights.read_bytes() == (weighted_bundle / "models/model.pt").read_bytes()


def test_without_large_files_the_entry_is_whole(weighted_bundle, tmp_path):
    (folder,) = write_for_hub("model-zoo", [weighted_bundle], tmp_path / "out")
    assert (folder / "models/model.pt").is_file() and not [*folder.glob("large_files*")]


def test_large_files_need_an_address_and_nothing_is_written_without(weighted_bundle, tmp_path):
    told = error_message(lambda: write_for_hub("model-zoo", [weighted_bundle], tmp_path / "out", large_bytes=1000))
    assert "base-url: expected where" in told and "models/model.pt" in told
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(weighted_bundle, tmp_path):
    (tmp_path / "note").write_text("mine")
    told = error_message(lambda: write_for_hub("huggingface", [weighted_bundle], tmp_path))
    assert "expected a new or empty folder" in told


def test_what_the_metadata_refer_to_is_in_the_bundle_and_its_pages_lead_nowhere_else():
    files = render(POCKET_VARIANT)
    scores = json.loads(files["configs/metadata.json"])["scores"]
    assert {scores["protocol"], scores["split_file"]} <= files.keys()
    assert "](" not in files[scores["protocol"]].decode()
    assert len(json.loads(files[scores["split_file"]])["validation"]) == scores["patients"]["patients"]


def test_links_become_words_and_pictures_go():
    assert strip_links("See [`a.py`](../a.py).\n![Loss](x.png)\n\nEnd [1] (2)") == "See `a.py`.\nEnd [1] (2)"


def test_the_labels_have_the_columns_that_slicer_s_module_reads():
    rows = [*csv.DictReader(render(POCKET_VARIANT)["labels.csv"].decode().splitlines())]
    assert [(row["LabelValue"], row["Name"]) for row in rows] == [("1", "kidney"), ("2", "tumor")]
    assert rows[0]["SegmentedPropertyTypeCodeSequence.CodeValue"] == "64033007"
    assert rows[1]["AnatomicRegionSequence.CodeMeaning"] == "Kidney"
    assert all(re.fullmatch(r"SCT|", row[key]) for row in rows for key in row if key.endswith("SchemeDesignator"))
