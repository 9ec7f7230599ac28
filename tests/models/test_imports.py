"""Files that are edited, and files beside files: the code that runs is the code that was named."""

import pickle
import sys

import pytest
import torch

from streamdissect.callables import hash_code
from streamdissect.errors import BadInput
from streamdissect.models import load_model

NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, {width}, 1)

    def forward(self, x):
        return self.conv(x) * {factor}
"""


def net(width=4, factor=1):
    return NET.format(width=width, factor=factor)


def width_of(spec):
    return load_model(str(spec)).module.conv.out_channels


@pytest.fixture(autouse=True)
def forgetting(monkeypatch):
    """Modules and paths of a test are gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - before.keys():
        if name.startswith(("beside", "streamdissect_model_")):
            del sys.modules[name]


@pytest.fixture
def folders(tmp_path):
    """Two folders with a file `m.py` each, which imports a file, a file of a folder and a package beside itself."""
    for name, width in (("one", 4), ("two", 7)):
        folder = tmp_path / name
        for inner in ("besides", "besidex"):
            (folder / inner).mkdir(parents=True)
            (folder / inner / "inner.py").write_text(f"WIDTH = {width}\n")
        (folder / "besidex" / "__init__.py").write_text("")
        (folder / "beside.py").write_text(net(width))
        (folder / "m.py").write_text(
            "from beside import Net\nimport besides.inner, besidex.inner\ndef build(): return Net()\n"
            f"assert besides.inner.WIDTH == besidex.inner.WIDTH == {width}\n"
        )
    return tmp_path


def test_files_of_one_name_beside_two_files_are_two(folders):
    for _ in range(2):
        assert width_of(folders / "one" / "m.py:Net") == 4
        assert width_of(folders / "two" / "m.py:Net") == 7
    one, two = (load_model(f"{folders}/{name}/m.py:Net") for name in ("one", "two"))
    assert one.structure_hash != two.structure_hash
    again = load_model(one.module)  # whose module's name stands for another by now
    assert again.structure_hash == one.structure_hash


def test_what_the_program_imported_itself_stays_and_does_not_stand_in(folders):
    sys.path.insert(0, str(folders / "one"))
    import beside
    import besides.inner as inner

    assert width_of(folders / "two" / "m.py:Net") == 7
    assert sys.modules["beside"] is beside and sys.modules["besides.inner"] is inner
    assert width_of(folders / "one" / "m.py:Net") == 4
    assert sys.modules["beside"] is beside


def test_a_file_beside_that_was_edited_is_read_anew(folders):
    spec = f"{folders}/one/m.py:build"
    first = load_model(spec)
    assert first.structure_hash == load_model(spec).structure_hash
    (folders / "one" / "beside.py").write_text(net(4, factor="torch.tensor(2.0)  # longer than before"))
    second = load_model(spec)
    x = torch.ones(1, 3, 2, 2)
    torch.testing.assert_close(second.module(x), 2 * first.module(x))
    assert (second.code_hash, second.state_hash) == (first.code_hash, first.state_hash)
    assert second.structure_hash != first.structure_hash


def test_what_came_from_beside_a_file_can_be_pickled(folders):
    module = load_model(f"{folders}/one/m.py:Net").module
    assert type(pickle.loads(pickle.dumps(module))) is type(module)


def test_imports_within_functions_find_what_lies_beside(tmp_path):
    (tmp_path / "beside_late.py").write_text("FACTOR = 3\n")
    text = net().replace("return self.conv(x) * 1", "import beside_late; return self.conv(x) * beside_late.FACTOR")
    (tmp_path / "late.py").write_text(text)
    module = load_model(f"{tmp_path}/late.py:Net").module
    x = torch.ones(1, 3, 2, 2)
    torch.testing.assert_close(module(x), 3 * module.conv(x))
    load_model(f"{tmp_path}/late.py:Net")
    assert sys.path.count(str(tmp_path)) == 1 and sys.path[0] != str(tmp_path)


def test_a_named_module_that_was_edited_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_named.py").write_text(net())
    first = load_model("beside_named:Net")
    (tmp_path / "beside_named.py").write_text(net(factor=2))
    with pytest.raises(BadInput, match=r"'beside_named:Net', but .*beside_named\.py was edited .*start Python anew"):
        load_model("beside_named:Net")
    # An object runs as what it was made from, so that its digest is still that.
    assert load_model(first.module).structure_hash == first.structure_hash
    assert hash_code(type(first.module)) == first.code_hash
    (tmp_path / "beside_named.py").write_text(net())
    assert load_model("beside_named:Net").code_hash == first.code_hash


def test_an_edit_of_the_file_of_a_part_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_part.py").write_text(net())
    (tmp_path / "beside_whole.py").write_text("from beside_part import Net\ndef build(): return Net()\n")
    load_model("beside_whole:build")
    (tmp_path / "beside_part.py").write_text(net(factor=2))
    with pytest.raises(BadInput, match=r"beside_part\.py was edited"):
        load_model("beside_whole:build")
