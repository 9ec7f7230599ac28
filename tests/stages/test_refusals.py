"""Bad input, each with its line and its exit code; damage that is found; limits that are kept."""

import errno
import json
import shutil
import sys

import pytest
from PIL import Image

import streamdissect as sd
from streamdissect.cli import main


@pytest.fixture
def copied(scenes, tmp_path):
    """A copy of the dataset that a test may spoil."""
    return shutil.copytree(scenes, tmp_path / "copy")


@pytest.fixture
def said(capsys):
    """`said(code, "word", ..., arguments=[...])`: the command fails with the code in one line that holds the words."""

    def call(code, *words, arguments):
        assert main([str(a) for a in arguments]) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("streamdissect ")]
        assert len(lines) == 1, lines
        assert all(word in lines[0] for word in words), lines[0]
        return lines[0]

    return call


def extracting(nets, data, out, *more, build="build", layers="block1.act"):
    return ["extract", "--model", f"{nets}:{build}", "--data", data, "--layers", layers, "--out", out, *more]


def test_unknown_layer_names_the_nearest(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", layers="blok1.act")
    said(2, "layers", "'blok1.act'", "block1.act", arguments=arguments)
    assert not (tmp_path / "run").exists()


def test_wrong_weights_name_their_keys(said, nets, scenes, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file(
        {"block1.conv.weight": torch.zeros(5, 3, 3, 3), "tail.weight": torch.zeros(1)}, tmp_path / "w.safetensors"
    )
    arguments = extracting(nets, scenes, tmp_path / "run", "--weights", tmp_path / "w.safetensors")
    said(2, "w.safetensors", "block1.conv.bias", "tail.weight", arguments=arguments)


def test_truncated_image(said, nets, copied, tmp_path):
    path = copied / "images" / "scene-00013.png"
    path.write_bytes(path.read_bytes()[:3000])
    said(
        2,
        "scene-00013.png",
        arguments=extracting(nets, copied, tmp_path / "run", "--batch-size", 4, "--shard-images", 4),
    )
    info = sd.info(tmp_path / "run")
    assert info["shards_done"] >= 3, "shards before the damaged image are kept"


def test_label_map_of_the_wrong_size(said, nets, copied, tmp_path):
    path = copied / "images" / "labels" / "object_0" / "scene-00004.png"
    Image.open(path).resize((30, 31), Image.Resampling.NEAREST).save(path)
    assert main([str(a) for a in extracting(nets, copied, tmp_path / "run")]) == 0
    said(2, "scene-00004.png", "31 rows x 30 columns", "32 x 32", arguments=["score", tmp_path / "run"])


def test_label_number_without_an_entry(said, nets, copied, tmp_path):
    table = (copied / "label.csv").read_text().splitlines()
    (copied / "label.csv").write_text("\n".join(line for line in table if not line.startswith("1,")) + "\n")
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, copied, out)]) == 0
    said(2, "label number 1,", arguments=["score", out])


def test_run_of_another_model_dataset_or_option(said, nets, scenes, copied, tmp_path):
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, scenes, out)]) == 0
    said(2, "model", arguments=extracting(nets, scenes, out, build="build?width=5"))
    said(2, "state", arguments=extracting(nets, scenes, out, "--weights", "random"))
    (copied / "label.csv").write_text((copied / "label.csv").read_text() + "99,new,object(0),0,0,\n")
    said(2, "data", arguments=extracting(nets, copied, out))
    said(2, "batch size", "got 7", "32", arguments=extracting(nets, scenes, out, "--batch-size", 7))
    said(2, "data", "dataset of run", arguments=["score", out, "--data", copied])
    assert main(["score", str(out)]) == 0
    said(2, "--union", "all-images", "--name", arguments=["score", out, "--union", "all-images"])
    assert main(["score", str(out), "--union", "all-images", "--name", "other"]) == 0
    assert (out / "scores" / "other" / "summary.json").exists()
    assert main(["score", str(out)]) == 0
    assert main(["score", str(out), "--union", "all-images", "--overwrite"]) == 0
    assert json.loads((out / "summary.json").read_text())["rule"]["union"] == "all-images"


def test_float16_overflow(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", build="loud")
    said(2, "layer block1.act, unit", "65504", "--dtype float32", arguments=arguments)
    assert main([str(a) for a in [*arguments, "--dtype", "float32"]]) == 0


def test_activations_that_are_no_numbers(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", build="broken", layers="block1.act,block2.conv")
    said(2, "layer block1.act, unit 0", "nan", "--allow-nonfinite", arguments=arguments)
    assert main([str(a) for a in [*arguments, "--allow-nonfinite"]]) == 0
    result = sd.score(tmp_path / "run")
    assert all(layer.unit_area_all.sum() == 0 for layer in result.layers.values())
    assert all(layer["flags"]["NONFINITE"] == layer["units"] for layer in result.summary["layers"].values())


def test_no_images_and_no_labelled_images(said, nets, copied, tmp_path):
    index = (copied / "index.csv").read_text().splitlines()
    (copied / "index.csv").write_text(index[0] + "\n")
    said(2, "index.csv", "no image", arguments=extracting(nets, copied, tmp_path / "run"))
    bare = [",".join(line.split(",")[:6]) + "," * (index[0].count(",") - 5) for line in index[1:]]
    (copied / "index.csv").write_text("\n".join([index[0], *bare]) + "\n")
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, copied, out)]) == 0
    said(2, "no labelled image", arguments=["score", out])
    said(2, "--labelled-only", arguments=extracting(nets, copied, tmp_path / "other", "--labelled-only"))


def test_images_of_different_sizes(said, nets, copied, tmp_path):
    lines = (copied / "index.csv").read_text().splitlines()
    cells = lines[3].split(",")
    path = copied / "images" / cells[0]
    Image.open(path).resize((50, 40)).save(path)
    cells[2:4] = "40", "50"
    (copied / "index.csv").write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]) + "\n")
    out = tmp_path / "run"
    said(2, "scene-00002.png", "64x64", "40x50", "--input-size", arguments=extracting(nets, copied, out))
    assert main([str(a) for a in extracting(nets, copied, out, "--input-size", 64, 64)]) == 0


def test_a_full_disk(said, nets, scenes, tmp_path, monkeypatch):
    from streamdissect.store.activations import ActivationStore

    real, calls = ActivationStore.write, []

    def write(self, layer, shard, maps):
        calls.append(shard)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.file(layer, shard)))
        return real(self, layer, shard, maps)

    monkeypatch.setattr(ActivationStore, "write", write)
    out = tmp_path / "run"
    arguments = extracting(nets, scenes, out, "--shard-images", 4, "--batch-size", 4)
    said(1, "the disk is full", "resumes", arguments=arguments)
    assert sd.info(out)["shards_done"] == 3
    assert main([str(a) for a in arguments]) == 0
    monkeypatch.undo()
    clean = tmp_path / "clean"
    assert main([str(a) for a in extracting(nets, scenes, clean, "--shard-images", 4, "--batch-size", 4)]) == 0
    first, second = sd.score(out), sd.score(clean)
    assert (first.iou["block1.act"] == second.iou["block1.act"]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_file_that_cannot_grow(nets, scenes, tmp_path, command):
    import resource
    import subprocess

    arguments = [str(a) for a in extracting(nets, scenes, tmp_path / "run", "--codec", "none")]
    script = "import signal, sys\nfrom streamdissect.cli import main\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    command(*arguments, check=0)
    command("verify", tmp_path / "run", check=0)


def test_damage_is_found_and_repaired(said, nets, scenes, tmp_path):
    out = tmp_path / "run"
    arguments = [str(a) for a in extracting(nets, scenes, out, "--shard-images", 5, "--codec", "zstd")]
    assert main(arguments) == 0
    file = out / "activations.zarr" / "block1.act" / "c" / "2" / "0" / "0" / "0"
    before = file.read_bytes()
    file.write_bytes(before[:1000] + bytes([before[1000] ^ 1]) + before[1001:])
    said(3, "c/2/0/0/0", "not what was written", "delete", arguments=["verify", out])
    said(3, "c/2/0/0/0", "damaged", arguments=["score", out])
    file.unlink()
    said(3, "missing", arguments=["score", out])
    assert main(arguments) == 0
    assert file.read_bytes() == before
    assert main(["verify", str(out)]) == 0
    assert main(["score", str(out)]) == 0
    state = next((out / "partial" / "extract" / "workers").glob("*.npz"))
    state.write_bytes(state.read_bytes()[:-100])
    said(3, state.name, arguments=["verify", out])
    said(3, state.name, "--overwrite", arguments=["score", out, "--name", "x"])


def test_no_run_and_runs_of_another_format(said, tmp_path):
    said(2, "no such directory", arguments=["score", tmp_path / "nowhere"])
    said(2, "no run.json", arguments=["score", tmp_path])
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    said(2, "format 99", arguments=["score", tmp_path])
    (tmp_path / "run.json").write_text('{"schema')
    said(3, "damaged", arguments=["score", tmp_path])


def test_output_that_is_something_else(said, nets, scenes, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    said(2, "--out", arguments=extracting(nets, scenes, tmp_path / "letters", "--overwrite"))
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_limits_of_disk_and_memory(said, nets, scenes, tmp_path):
    out = tmp_path / "run"
    said(2, "--max-disk", arguments=extracting(nets, scenes, out, "--max-disk", "10kB"))
    said(2, "--memory", arguments=extracting(nets, scenes, out, "--memory", "100kB", "--shard-images", 20))
    assert not out.exists()
    assert main([str(a) for a in extracting(nets, scenes, out, "--dry-run")]) == 0
    assert not out.exists()
