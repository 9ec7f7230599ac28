"""`--labels` from extraction to tables: recorded, replaced, shared by workers, refused where it would mislead."""

import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.data.colors import NAMES, ColorNames
from streamdissect.data.labelling import LabelledDataset
from streamdissect.data.synthetic import SyntheticScenes

EXAMPLE = Path(__file__).parents[2] / "examples" / "label_with_network.py"
SIDES = """\
import numpy as np


class Sides:
    batch = 5

    def __init__(self, columns=8):
        self.columns, self.concepts = columns, {"side": ["left", "right"]}

    def __call__(self, images):
        map = np.ones((len(images), 1, 8, self.columns), np.uint16)
        map[..., self.columns // 2 :] = 2
        return {"side": map}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty pictures of 32 x 32 without labels."""
    path = tmp_path_factory.mktemp("data") / "photos"
    path.mkdir()
    scenes = SyntheticScenes(20, seed=2, size=32)
    for i in range(20):
        Image.fromarray(scenes.image(i)).save(path / f"{i:02d}.png")
    return path


@pytest.fixture
def sides(tmp_path):
    path = tmp_path / "sides.py"
    path.write_text(SIDES)
    return f"{path}:Sides"


@pytest.fixture
def extracted(nets, photos, tmp_path):
    """`extracted("colors")`: a run of the pictures with these labels, in four shards."""

    def call(labels=None, out="run", data=photos):
        options = {"shard_images": 5, "batch_size": 5, "threads": 1}
        return sd.extract(f"{nets}:build", data, ["block1.act"], tmp_path / out, labels=labels, **options)

    return call


def said(capsys, code, *words, arguments):
    assert main([str(word) for word in arguments]) == code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in line, line


def assert_equal_results(one, other):
    for name, layer in one.layers.items():
        for key, array in layer.arrays.items():
            np.testing.assert_array_equal(array, other.layers[name].arrays[key], err_msg=key)


def test_a_folder_without_labels_is_scored_as_the_same_folder_with_the_same_labels_on_disk(extracted, photos, tmp_path):
    frozen = tmp_path / "frozen"
    (frozen / "images").mkdir(parents=True)
    (frozen / "labels" / "color").mkdir(parents=True)
    for path in photos.iterdir():
        (frozen / "images" / path.name).write_bytes(path.read_bytes())
        image = np.asarray(Image.open(path))
        numbers = ColorNames()(image[None])["color"][0, 0].astype(np.uint8)
        Image.fromarray(numbers).save(frozen / "labels" / "color" / path.name)
    lines = [f"{i},{name}-c,color" for i, name in enumerate(NAMES, start=1)]
    (frozen / "labels.csv").write_text("\n".join(["number,name,category", *lines]))
    asked = sd.score(extracted("colors"), threads=1)
    stored = sd.score(extracted(out="other", data=frozen), threads=1)
    assert asked.concept_name == stored.concept_name == tuple(f"{name}-c" for name in NAMES)
    assert_equal_results(asked, stored)
    assert (asked.category_pixels == 20 * 16 * 16).all()


def test_own_and_added_labels_side_by_side(extracted, sides):
    """What the dataset's own concepts count does not change by labels that are added."""
    alone = sd.score(extracted(data="synth:?n=20&size=32", out="alone"))
    both = sd.score(extracted(sides, data="synth:?n=20&size=32"))
    n = len(alone.concept_name)
    assert both.concept_name == (*alone.concept_name, "left", "right")
    for name, layer in alone.layers.items():
        for key in ("intersection", "concept_area"):
            found = both.layers[name].arrays[key]
            axis = found.shape.index(n + 2)
            np.testing.assert_array_equal(np.take(found, range(n), axis), layer.arrays[key])
            if key == "concept_area":
                assert found[-2:].tolist() == [20 * 16 * 8] * 2


def test_the_command_line_records_replaces_and_refuses(nets, photos, sides, tmp_path, capsys):
    run = tmp_path / "run"
    extract = ["extract", "--model", f"{nets}:build", "--data", photos, "--layers", "block1.act", "--out", run]
    assert main([*map(str, extract), "--labels", "colors", "--labels", sides]) == 0
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["data"]["labels"] == ["colors", sides]
    assert manifest["identity"]["data"] == sd.open_dataset(photos).images_fingerprint()
    remedy = f"streamdissect score {run} --labels ... --name NAME"
    said(capsys, 2, "--labels: got 'colors', expected", sides, remedy, arguments=[*extract, "--labels", "colors"])
    said(capsys, 2, "--labels: got 'none'", remedy, arguments=extract)
    assert main([*map(str, extract), "--labels", f"colors,{sides}"]) == 0
    assert main(["score", str(run)]) == 0
    rule = json.loads((run / "summary.json").read_text())["rule"]
    assert [spec for spec, _ in rule["labels"]] == ["colors", sides]
    said(
        capsys,
        2,
        "--labels: got colors (",
        "as this run was scored",
        "--name",
        arguments=["score", run, "--labels", "colors"],
    )
    said(capsys, 2, "no labelled image", arguments=["score", run, "--labels", "none", "--name", "bare"])
    said(capsys, 2, "nearest is 'colors'", arguments=["score", run, "--labels", "colours"])
    assert main(["score", str(run), "--labels", "colors", "--name", "hues"]) == 0
    assert sd.score(run, name="hues", labels="colors").category_name == ("color",)
    assert sd.score(run).category_name == ("color", "side")


def test_another_dataset_is_refused_whatever_labels_it(extracted, sides):
    run = extracted("colors")
    with pytest.raises(sd.BadInput, match="the images of run"):
        sd.score(run, "synth:?n=20&size=32", labels=sides)


def test_a_labeller_that_changed_is_another(extracted, sides, capsys):
    run = extracted(sides)
    first = sd.score(run)
    code = Path(sides.partition(":")[0])
    code.write_text(SIDES.replace("// 2 :] = 2", "// 2 :] = 1"))
    said(capsys, 2, "--labels: got", "as this run was scored", "--overwrite", arguments=["score", run.path])
    anew = sd.score(run, overwrite=True)
    assert first.layers["block1.act"].arrays["concept_area"].tolist() == [20 * 32] * 2
    assert anew.layers["block1.act"].arrays["concept_area"].tolist() == [20 * 64, 0], "no label planes of before"
    code.unlink()
    said(capsys, 2, "sides.py", arguments=["score", run.path])


PARTIAL = """
import pickle, sys
import streamdissect as sd
part = sd.score_partial(sys.argv[1], shards=[1, 2], threads=1)
sys.stdout.buffer.write(pickle.dumps(part))
"""


def test_workers_partials_and_merge_agree(extracted, sides, tmp_path):
    run = extracted([sides, "colors"])
    done = subprocess.run([sys.executable, "-c", PARTIAL, str(run.path)], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there, here = pickle.loads(done.stdout), sd.score_partial(run, shards=[0, 3])
    assert isinstance(there.data, LabelledDataset)
    other = sd.score_partial(run, shards=[0, 3], labels=sides)
    with pytest.raises(sd.BadInput, match="sort them"):
        sd.merge([there, other])
    merged = sd.merge([here, there])
    assert main(["score", str(run.path), "--shard", "0/2"]) == 0
    assert main(["score", str(run.path), "--shard", "1/2"]) == 0
    whole = sd.score(run)
    assert whole.category_name == ("side", "color")
    assert_equal_results(whole, merged)
    assert_equal_results(whole, sd.merge(run.path))
    mask = whole.mask(0, "block1.act", 1)
    assert mask.shape == (8, 8) and (mask == merged.mask(0, "block1.act", 1)).all()


def test_merge_of_a_scoring_with_other_labels_than_the_runs(extracted, sides):
    run = extracted("colors")
    for worker in range(2):
        sd.score(run, labels=sides, name="sides", shard=(worker, 2))
    assert sd.merge(run.path, options=sd.ScoreOptions(name="sides")).category_name == ("side",)
    parts = [sd.score_partial(run, shards=range(4), labels=sides)]
    assert sd.merge(parts).category_name == ("side",)
    parts = [
        sd.score_partial(
            extracted("colors?category=tone", "scenes", "synth:?n=20&size=32"), shards=range(4), labels="none"
        )
    ]
    assert "tone" not in sd.merge(parts).category_name


class Flat:
    """One label everywhere."""

    version = "1"

    def __init__(self):
        self.concepts = {"any": ["thing"]}

    def __call__(self, images):
        return {"any": np.ones((len(images), 2, 3), np.uint8)}


def test_an_object_is_passed_again(extracted, photos, capsys):
    run = extracted(Flat())
    said(capsys, 2, "python:", "given as an object", arguments=["score", run.path])
    result = sd.score(run, labels=Flat())
    assert result.concept_name == ("thing",)
    data = sd.open_dataset(photos, labels=Flat())
    assert_equal_results(result, sd.score(run, data))
    (run.path / "dissection.h5").unlink()
    assert_equal_results(result, sd.merge(run.path, data=data))


def test_labelled_only_takes_every_image(nets, photos, tmp_path):
    how = {"labelled_only": True, "threads": 1}
    with pytest.raises(sd.BadInput, match="labelled-only"):
        sd.extract(f"{nets}:build", photos, ["block1.act"], tmp_path / "none", **how)
    run = sd.extract(f"{nets}:build", photos, ["block1.act"], tmp_path / "all", labels="colors", **how)
    assert sd.info(run.path)["images"] == 20


def test_a_labelled_dataset_given_to_extract_and_to_capture(extracted, photos, tmp_path):
    import torch

    data = sd.open_dataset(photos, labels="colors")
    run = extracted(data=data)
    assert run.manifest["data"]["labels"] == ["colors"]
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    with sd.capture(net, ["0"], tmp_path / "captured", n_images=20, data=data) as cap, torch.inference_mode():
        for i in range(20):
            with cap.images([i]):
                net(torch.from_numpy(data.image(i)).permute(2, 0, 1)[None] / 255)
    assert sd.score(tmp_path / "captured", data).category_name == ("color",)


def test_a_failing_labeller_is_one_line(extracted, tmp_path, capsys):
    path = tmp_path / "bad.py"
    path.write_text("def bad(images):\n    raise ValueError('first\\nsecond')\nbad.concepts = {'a': ['x']}\n")
    run = extracted(f"{path}:bad")
    said(capsys, 2, "raised ValueError: first on 00.png to 04.png", arguments=["score", run.path, "--threads", 1])
    capsys.readouterr()
    path.write_text(
        "import numpy as np\ndef bad(images):\n    return {'a': np.ones((1, 2, 2), int)}\nbad.concepts = {'a': ['x']}\n"
    )
    said(capsys, 2, "an array (1, 2, 2)", "(5, layers", arguments=["score", run.path, "--overwrite"])


def test_the_example_as_its_docstring_says(photos, command, tmp_path):
    """Its commands, run where the example lies."""
    (tmp_path / EXAMPLE.name).write_text(EXAMPLE.read_text())
    (tmp_path / "photos").symlink_to(photos)
    lines = [line.split("#")[0].strip() for line in EXAMPLE.read_text().splitlines() if "streamdissect " in line]
    assert len(lines) == 3
    for line in lines:
        words = [word.strip('"') for word in line.split()[1:]]
        done = command(*words, check=0, cwd=tmp_path)
    assert "detectors" in done.stdout
    summaries = [json.loads((tmp_path / "run" / at / "summary.json").read_text()) for at in (".", "scores/both")]
    assert [each["categories"] for each in summaries] == [["surface"], ["color", "surface"]]


def test_the_labeller_of_the_page_on_labelling(extracted, tmp_path):
    page = (EXAMPLE.parents[1] / "docs" / "labelling.md").read_text(encoding="utf-8")
    (tmp_path / "my_labels.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    result = sd.score(extracted(f"{tmp_path}/my_labels.py:Surfaces?sure=0.4"))
    assert result.concept_name == ("sky", "plants", "road", "sun", "fog")
    area = result.layers["block1.act"].arrays["concept_area"].tolist()
    assert 0 < area[0] < 20 * 64 and area[1:] == [0] * 4


WEIGHTS = """\
from pathlib import Path

import numpy as np

concepts = {"side": ["left"]}


def label(images):
    rows = int(Path(__file__).with_name("weights.txt").read_text())
    maps = np.zeros((len(images), 1, 8, 8), np.uint16)
    maps[..., :rows, :] = 1
    return {"side": maps}


label.concepts = concepts
"""


def test_overwriting_makes_the_labels_anew(extracted, tmp_path):
    """What a labeller reads besides its code no digest shows; --overwrite is the way out."""
    (tmp_path / "lab.py").write_text(WEIGHTS)
    (tmp_path / "weights.txt").write_text("2")
    run = extracted(f"{tmp_path / 'lab.py'}:label")
    assert sd.score(run).layers["block1.act"].concept_area.tolist() == [20 * 16]
    (tmp_path / "weights.txt").write_text("5")
    assert sd.score(run, overwrite=True).layers["block1.act"].concept_area.tolist() == [20 * 40]


class Reusing:
    """Returns the same array again and again, as a network on a GPU may do with its buffers."""

    concepts = {"side": ["left", "right"]}  # noqa: RUF012
    version, batch = 1, 1

    def __init__(self):
        self.maps = np.zeros((1, 1, 32, 32), np.uint16)

    def __call__(self, images):
        time.sleep(0.002)
        self.maps[:] = 1 + (images[:, None, ..., 0] > 128)
        return {"side": self.maps}


def test_an_array_that_a_labeller_returns_again_is_copied(photos):
    data = sd.open_dataset(photos, labels=Reusing())
    expected = [1 + (data.image(i)[..., 0] > 128) for i in range(len(data))]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = pool.map(lambda i: data.labels(i).layers[0][1], range(len(data)))
            for layer, right in zip(found, expected, strict=True):
                np.testing.assert_array_equal(layer, right)


def test_a_masked_array_is_refused(photos):
    class Masked(Reusing):
        def __call__(self, images):
            return {"side": np.ma.masked_equal(super().__call__(images)["side"], 2)}

    data = sd.open_dataset(photos, labels=Masked())
    with pytest.raises(sd.BadInput, match=r"a masked array, expected a plain one; .*filled\(0\)"):
        data.labels(0)
