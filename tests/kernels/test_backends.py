"""Which kernels there are and which are taken."""

import subprocess
import sys

import pytest

from streamdissect.kernels import available_backends, build_info, kernel_backend


def test_available_backends_can_be_imported():
    found = available_backends()
    assert found[-1] == "reference"
    assert [kernel_backend(name).name for name in found] == found


def test_the_backends_offer_the_same_functions(any_backend):
    module = kernel_backend(any_backend)
    for function in ("prepare", "mask_maps", "count_maps", "count_masks", "label_planes", "update_bins",
                     "update_buffer", "update_histogram", "collect", "update_sketch"):  # fmt: skip
        assert callable(getattr(module, function))


def test_the_variable_of_the_environment_names_the_backend(monkeypatch):
    monkeypatch.setenv("STREAMDISSECT_KERNELS", "reference")
    assert kernel_backend().name == "reference"
    assert build_info() == {"backend": "reference"}


def test_the_build_is_described():
    info = build_info()
    assert info["backend"] == kernel_backend().name
    assert all(info.values())
    if info["backend"] == "cython":
        assert set(info) == {"backend", "compiler", "level", "levels", "cpu_clones"}
        assert info["level"] in info["levels"] and info["levels"][-1] == "portable"


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="expected one of auto, cython, numba, torch, reference"):
        kernel_backend("fortran")


def run(code, **environment):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_numba_and_torch_are_imported_only_when_they_are_used():
    code = (
        "import sys; from streamdissect import kernels as k; print(k.available_backends(), k.kernel_backend().name);"
        "print({'numba', 'torch'} & set(sys.modules))"
    )
    found, imported = run(code).stdout.splitlines()
    assert "'torch'" in found
    assert imported == ("set()" if found.endswith("cython") else "{'numba'}")


def test_numba_kernels_do_without_a_cache(tmp_path):
    pytest.importorskip("numba")
    blocked = tmp_path / "file"
    blocked.touch()  # no folder can be made below a file, whoever asks
    code = (
        "import numpy as np; from streamdissect.quantile import Histogram;"
        "streams = Histogram(1, np.float16, 'numba'); streams.update(np.ones((2, 1, 3), np.float16));"
        "print(streams.bins(0)[1][0])"
    )
    done = run(code, NUMBA_CACHE_DIR=str(blocked / "cache"))
    assert done.stdout.strip() == "6", done.stderr
