"""What the verification reads in a text: documented commands, and numbered labels."""

from __future__ import annotations

import pytest
from good_bundle import README, find_problems

from zoo.verification.label_order import find_listings

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
        (
            "cd .. && python scripts/package.py --label D",
            "scripts/package.py --label: expected an option of the script",
        ),
        ("kits-lite segmnet -i scan.nii.gz", "kits-lite: expected one of segment, score, check"),
        ("python -m kits_lite_v0_2_0 segment --inpt x", "kits-lite segment --inpt: expected an option of the command"),
        (
            "torchrun --nproc_per_node=2 -m common segment -x y",
            "kits-lite segment -x: expected an option of the command",
        ),
        ("bash run_all.sh", "run_all.sh: expected a file, found none"),
        ("python tools/convert.py case", "tools/convert.py: expected a file, found none"),
        (f"{RUN} run --config_file other.json", "other.json: expected a file, found none"),
        ("See `docs/nothing.md`.", "docs/nothing.md: expected a file, found none"),
    ],
)
def test_a_documented_command_that_does_not_exist_is_found_out(line, expected, broken):
    with (broken / README).open("a") as file:
        file.write(f"\n    {line}\n")
    ((check, problem),) = find_problems(broken)
    assert check == "documented commands" and problem.startswith("docs/README.md: ") and expected in problem


@pytest.mark.parametrize(
    "line",
    [
        f"{RUN} run --config_file \"['configs/train.json','configs/prune.json']\" --amount 1 --network_def#channels 3",
        f"{RUN} run run --config-file=/path/to/x/configs/train.json --optimizer#lr 1 --meta_file configs/metadata.json",
        f"{RUN} verify_net_in_out network_def --config_file configs/inference.json --meta_file configs/metadata.json",
        "python scripts/package.py --output O > log; ls --color",
        "cd x && kits-lite score -l D -p O --protocol kits23 -o s.csv && python -m kits_lite_v0_2_0 --help",
        "`python` runs it; don't worry about `--epochs`",
    ],
)
def test_commands_that_exist_are_left_in_peace(line, broken):
    with (broken / README).open("a") as file:
        file.write(f"\n    {line}\n")
    assert find_problems(broken) == []


@pytest.mark.parametrize(
    ("text", "listings"),
    [
        ("Labels: 0 background, 1 kidney, 2 tumour; a cyst (3) counts", [{0: "background", 1: "kidney", 2: "tumor"}]),
        ("0: background; 1: Tumour", [{0: "background", 1: "tumor"}]),
        ("- 1: kidney\n- 2: tumour\n", [{1: "kidney", 2: "tumor"}]),
        ("| code | label |\n| --- | --- |\n| 1 | kidney |\n| 2 | tumour |\n", [{1: "kidney", 2: "tumor"}]),
        ("tumour (1), kidney (2)", [{1: "tumor", 2: "kidney"}]),
        ("background: 0, tumor: 1 and kidney = 2", [{0: "background", 1: "tumor", 2: "kidney"}]),
        ("1 kidney,\n2 tumour and 3 cyst", [{1: "kidney", 2: "tumor", 3: "cyst"}]),
        ("0.84 kidney, 0.77 tumor; 19 cases, 3 slices; 2 kidneys", []),
    ],
)
def test_numbered_labels_are_found_in_a_text(text, listings):
    assert find_listings(text, ["background", "kidney", "tumor"]) == listings
