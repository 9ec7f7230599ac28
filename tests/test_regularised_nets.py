"""The script that trains a plain and a regularised network: its penalty, and a tiny form of the whole."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from streamdissect.data.canvas import GROUP_OF, PARTS, THINGS

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_regularised_nets.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_regularised_nets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_taxonomy_holds_every_thing_and_part_once_but_the_sky(script):
    assert sorted(script.CLASSES) == sorted({*THINGS, *PARTS} - {"sky"})
    super_category = {name: group for group, names in script.TAXONOMY.items() for name in names}
    for group in ("building", "vehicle", "plant"):
        assert {name for name, of in GROUP_OF.items() if of == group} <= set(script.TAXONOMY[group])
    assert super_category["wheel"] == super_category["car"]


def test_a_unit_that_serves_one_super_category_pays_for_sharing_alone(script):
    weight = torch.zeros(len(script.CLASSES), 2)
    weight[: len(script.TAXONOMY["air"]), 0] = torch.tensor([3.0, 4.0, 0.0, 0.0])
    sharing, competition = script.penalty(weight)
    assert sharing.item() == pytest.approx(5 * 2, abs=1e-3)  # norm 5, of four classes
    assert competition.item() == pytest.approx(0, abs=1e-3)
    assert script.groups_served(weight[:, :1]) == pytest.approx(1)


def test_a_unit_that_serves_two_pays_for_both_and_for_the_pair(script):
    weight = torch.zeros(len(script.CLASSES), 1)
    weight[script.CLASSES.index("cloud")], weight[script.CLASSES.index("lamp")] = 2.0, -3.0
    sharing, competition = script.penalty(weight)
    assert sharing.item() == pytest.approx(2 * 4**0.5 + 3 * 3**0.5, abs=1e-3)
    assert competition.item() == pytest.approx(6, abs=1e-3)
    assert script.groups_served(weight) == pytest.approx(13**2 / (4**2 + 9**2))


def test_weights_of_nothing_have_a_gradient(script):
    weight = torch.zeros(len(script.CLASSES), 3, requires_grad=True)
    sum(script.penalty(weight)).backward()
    assert torch.isfinite(weight.grad).all()


def test_a_seed_gives_the_same_network_and_only_the_penalty_differs(script):
    data = script.load(48, script.TRAIN_SEED)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, two, grouped = (script.train(data, 2, 0, is_grouped) for is_grouped in (False, False, True))
    finally:
        torch.set_num_threads(threads)
    same = [torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)]
    assert all(same)
    plain, penalised = (script.penalty(net.present.weight.flatten(1))[1].item() for net in (one, grouped))
    assert penalised < plain
    assert torch.equal(grouped.norm4.weight, torch.ones(script.N_UNITS))


def test_the_whole_in_small(tmp_path):
    out = tmp_path / "out"
    few = ["--images", "48", "--epochs", "1", "--seeds", "2", "--dissect", "24", "--rotations", "2"]
    done = subprocess.run([sys.executable, str(SCRIPT), str(out), *few], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "weights" / "grouped-1.json").read_text(encoding="utf-8"))
    assert 0 < facts["accuracy"] <= 1 and 1 <= facts["groups_served"] <= 6
    with open(out / "compare" / "compare.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["runs"], row["units"]) for row in rows] == [("plain", "2", "64"), ("grouped", "2", "64")]
    assert all(row["rotated_unique_n"] == row["mean_loading_n"] == "2" for row in rows)
