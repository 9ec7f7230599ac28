"""What tells two networks with the same weights apart, and what does not."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from streamdissect.models import hash_state, hash_structure, load_model


class Act(nn.Module):
    """A part whose function, settings and notes are attributes."""

    def __init__(self, function=F.relu, **settings):
        super().__init__()
        self.function = function
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(x)


def with_forward(forward):
    part = nn.Identity()
    part.forward = forward
    return part


OTHERS = {
    "a class": (lambda: nn.ReLU(), lambda: nn.Tanh()),
    "what a part prints": (lambda: nn.Conv2d(3, 4, 3), lambda: nn.Conv2d(3, 4, 3, padding_mode="circular", padding=1)),
    "heads, which nothing prints": (lambda: nn.MultiheadAttention(8, 2), lambda: nn.MultiheadAttention(8, 4)),
    "an installed function": (lambda: Act(F.relu), lambda: Act(torch.tanh)),
    "code in place": (lambda: Act(lambda x: x + 1), lambda: Act(lambda x: x + 2)),
    "a list of numbers": (lambda: Act(taps=[1, 2]), lambda: Act(taps=[1, 3])),
    "a dict": (lambda: Act(taps={"a": (1.5, None)}), lambda: Act(taps={"a": (1.5, "x")})),
    "a method of one object": (lambda: with_forward(torch.relu), lambda: with_forward(torch.tanh)),
    "a traced graph": (
        lambda: torch.fx.symbolic_trace(Act(torch.relu)),
        lambda: torch.fx.symbolic_trace(Act(torch.tanh)),
    ),
}


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_networks_of_the_same_weights_are_told_apart_by(one, other):
    state = one().state_dict()
    digests = []
    for make in (one, one, other):
        part = make()
        part.load_state_dict(state)
        digests.append((hash_state(part), hash_structure(nn.Sequential(part))))
    assert digests[0] == digests[1]
    assert digests[0][0] == digests[2][0] and digests[0][1] != digests[2][1]


def test_order_and_names_count():
    relu, tanh = nn.ReLU(), nn.Tanh()
    first = hash_structure(nn.Sequential(relu, tanh))
    assert first != hash_structure(nn.Sequential(tanh, relu))
    assert first == hash_structure(nn.Sequential(nn.ReLU(), nn.Tanh()))


def test_objects_in_memory_modes_and_private_notes_do_not_count():
    class Verbose(Act):
        def extra_repr(self):
            return repr(object())

    def build(**settings):
        return hash_structure(Verbose(**settings))

    assert build() == build(seen=torch.zeros(2)) == build(_n=3)
    assert hash_structure(Act().train()) == hash_structure(Act().eval())


def test_a_loaded_network_carries_its_digest(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef build(): return nn.Sequential(nn.ReLU())\n")
    loaded = load_model(f"{tmp_path}/net.py:build")
    assert loaded.structure_hash == hash_structure(nn.Sequential(nn.ReLU())) != hash_structure(nn.Sequential(nn.ELU()))


MAIN = """
from torch import nn
from streamdissect.models import hash_structure

class Net(nn.Module):
    def forward(self, x):
        names = {{"a", "b", "c"}}
        return [y for y in x.{function}() if "a" in {{"a", "b", "c"}}]

print(hash_structure(Net()))
"""


def test_a_class_of_the_program_itself_counts_by_its_code(tmp_path):
    """Whatever else stands in the program, and in whichever process."""
    scripts = {
        "first": MAIN.format(function="relu"),
        "moved": "\n\nprint(end='')\n" + MAIN.format(function="relu"),
        "other": MAIN.format(function="tanh"),
    }
    found = {}
    for name, text in scripts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text))
        found[name] = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True).stdout
    assert len(found["first"].strip()) == 32
    assert found["first"] == found["moved"] != found["other"]
