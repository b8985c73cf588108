"""Splits of cases: every one repeats itself, is recorded, and read back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import error_message

from common.kits.cases import find_cases, make_split, read_split, read_subset, select_labelled, split_cases


def make_cases(count: int) -> list[dict[str, str]]:
    return [{"case": f"case_{i:05d}", "image": f"{i}.nii.gz", "label": f"{i}_label.nii.gz"} for i in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 10, 210])
@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_a_split_is_disjoint_complete_and_leaves_no_side_empty(count, fraction):
    split = split_cases(make_cases(count), fraction)
    assert sorted(split["training"] + split["validation"]) == [case["case"] for case in make_cases(count)]
    assert len(split["validation"]) == min(max(round(count * fraction), 1), count - 1)
    assert all(type(name) is str for side in split.values() for name in side)


def test_a_split_depends_on_names_and_seed_and_not_on_their_order():
    cases = make_cases(30)
    assert split_cases(cases) == split_cases(cases[::-1]) == split_cases(cases[7:] + cases[:7])
    splits = {tuple(split_cases(cases, seed=seed)["validation"]) for seed in range(10)}
    assert len(splits) == 10


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_and_1_is_refused(fraction):
    assert f"found {fraction}" in error_message(lambda: split_cases(make_cases(4), fraction))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cases_cannot_be_split(count):
    assert f"found {count}" in error_message(lambda: split_cases(make_cases(count)))


@pytest.mark.parametrize(
    "text, told",
    [
        ('{"training": ["a", "b"], "validation": ["b", "a", "c"]}', "a, b"),
        ('{"training": [], "validation": ["a"]}', "empty"),
        ('{"training": ["a"], "validation": []}', "empty"),
        ('{"training": ["a"]', "JSON"),
        ("", "JSON"),
        ('{"training": ["a"]}', "validation"),
        ('{"validation": ["a"]}', "training"),
        ('["a", "b"]', "JSON"),
        ('{"training": 1, "validation": 2}', "JSON"),
        ('{"training": "case_00000", "validation": ["case_00001"]}', "JSON"),
        ('{"training": [0], "validation": [1]}', "JSON"),
    ],
)
def test_a_split_file_that_is_not_one_is_refused(tmp_path, text, told):
    path = tmp_path / "split.json"
    path.write_text(text)
    message = error_message(lambda: read_split(path))
    assert message.startswith(f"{path}: expected")
    assert told in message
    assert "\n" not in message


def test_a_split_file_that_is_missing_is_refused(tmp_path):
    assert "found none" in error_message(lambda: read_split(tmp_path / "split.json"))


def test_a_random_split_is_recorded_and_read_back(kits_folder, tmp_path):
    record = tmp_path / "eval" / "split.json"
    sides = make_split(kits_folder, record, validation_fraction=0.4, seed=3)
    names = {side: [case["case"] for case in cases] for side, cases in sides.items()}
    assert names == split_cases(find_cases(kits_folder), 0.4, 3) == read_split(record) == json.loads(record.read_text())
    assert [file.name for file in record.parent.iterdir()] == ["split.json"]
    for subset, cases in sides.items():
        assert read_subset(kits_folder, record, subset) == cases
        assert all(Path(case["label"]).is_file() for case in cases)


def test_a_split_file_is_honoured_and_recorded_as_it_is(kits_folder, tmp_path):
    chosen = {"training": ["case_00002_synthetic"], "validation": ["case_00001_synthetic"]}
    (tmp_path / "mine.json").write_text(json.dumps(chosen))
    sides = make_split(kits_folder, tmp_path / "record.json", tmp_path / "mine.json", validation_fraction=0.9, seed=5)
    assert {side: [case["case"] for case in cases] for side, cases in sides.items()} == chosen
    assert json.loads((tmp_path / "record.json").read_text()) == chosen


def test_a_split_file_may_leave_out_what_has_no_label_and_must_not_name_it(kits_folder, tmp_path):
    (kits_folder / "case_00000_synthetic" / "segmentation.nii.gz").unlink()
    chosen = {"training": ["case_00002_synthetic"], "validation": ["case_00001_synthetic"]}
    (tmp_path / "mine.json").write_text(json.dumps(chosen))
    assert make_split(kits_folder, tmp_path / "record.json", tmp_path / "mine.json")["training"][0]["label"]
    assert len(read_subset(kits_folder, tmp_path / "record.json")) == 1
    (tmp_path / "mine.json").write_text(json.dumps(chosen | {"training": ["case_00000_synthetic"]}))
    message = error_message(lambda: make_split(kits_folder, tmp_path / "other.json", tmp_path / "mine.json"))
    assert "case_00000_synthetic" in message and "expected a label" in message


def test_a_split_of_cases_that_are_not_there_leaves_no_record(kits_folder, tmp_path):
    chosen = {"training": ["case_00000_synthetic", "case_7"], "validation": ["case_8"]}
    (tmp_path / "mine.json").write_text(json.dumps(chosen))
    message = error_message(lambda: make_split(kits_folder, tmp_path / "record.json", tmp_path / "mine.json"))
    assert "case_7" in message
    assert not (tmp_path / "record.json").exists()


def test_every_case_is_read_without_looking_at_the_split(kits_folder, tmp_path):
    assert read_subset(kits_folder, tmp_path / "absent.json", "all") == find_cases(kits_folder)


def test_an_unknown_subset_and_an_unlabelled_case_are_refused(kits_folder, tmp_path):
    assert "found test" in error_message(lambda: read_subset(kits_folder, tmp_path / "absent.json", "test"))
    (kits_folder / "case_00001_synthetic" / "segmentation.nii.gz").unlink()
    assert "case_00001_synthetic" in error_message(lambda: read_subset(kits_folder, tmp_path / "absent.json", "all"))


def test_selected_cases_come_in_the_order_of_the_names_and_are_copies():
    cases = make_cases(4)
    selected = select_labelled(cases, ["case_00003", "case_00001"])
    assert selected == [cases[3], cases[1]]
    selected[0]["image"] = "changed"
    assert cases == make_cases(4)


def test_every_case_that_is_missing_is_named():
    message = error_message(lambda: select_labelled(make_cases(2), ["case_7", "case_00001", "case_8"]))
    assert message.endswith("none named case_7, case_8.")


# Several folders


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Whole slices of patients 1 to 4, and crops of 3, 4 and 5."""
    for folder, numbers in (("whole", (1, 2, 3, 4)), ("crops", (3, 4, 5))):
        for number in numbers:
            case = tmp_path / folder / f"case_{number:05d}"
            case.mkdir(parents=True)
            for stem in ("imaging", "segmentation"):
                (case / f"{stem}.nii.gz").touch()
    return [tmp_path / "whole", tmp_path / "crops"]


def test_the_cases_of_several_folders_come_one_folder_after_the_other(folders):
    cases = find_cases(folders, labelled=True)
    assert [case["case"][-1] for case in cases] == [*"1234345"]
    assert cases == find_cases(folders[0]) + find_cases(folders[1])
    assert find_cases([str(folders[0])]) == find_cases(folders[0])


@pytest.mark.parametrize("seed", range(6))
def test_all_files_of_a_patient_are_on_one_side(folders, tmp_path, seed):
    sides = make_split(folders, tmp_path / "split.json", validation_fraction=0.4, seed=seed)
    names = {side: {case["case"] for case in cases} for side, cases in sides.items()}
    assert len(names["training"]) == 3 and len(names["validation"]) == 2
    assert not names["training"] & names["validation"]
    assert sum(map(len, sides.values())) == 7
    again = make_split(folders, tmp_path / "again.json", tmp_path / "split.json")
    assert again == sides
    assert read_subset(folders, tmp_path / "split.json") == sides["validation"]


def test_a_patient_in_several_folders_is_told(folders, caplog):
    with caplog.at_level("INFO", "common.kits.cases"):
        find_cases(folders)
    (record,) = caplog.records
    assert "2 case numbers stand in several folders with different images, case_00003 for one" in record.message


def test_the_same_image_in_two_folders_and_no_folder_at_all_are_refused(folders):
    assert "expected every image in one of the folders" in error_message(lambda: find_cases([folders[0], folders[0]]))
    assert "empty list" in error_message(lambda: find_cases([]))
    missing = folders[0].parent / "nowhere"
    assert str(missing) in error_message(lambda: find_cases([folders[0], missing]))
