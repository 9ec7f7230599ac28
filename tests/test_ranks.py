"""Which of several processes this one is, and what follows for the defaults."""

import os
import sys
from types import SimpleNamespace

import pytest

from streamdissect import granted, options, ranks
from streamdissect.ranks import find_rank

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "PMIX_RANK": "2",
}
PMI = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
"""A batch script itself, of a job of four tasks."""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, ("torchrun", 5, 8, 1, 4)),
        (OPEN_MPI, ("Open MPI", 2, 3, 0, 1)),
        (PMI, ("PMI", 1, 2, 1, 2)),
        (SRUN, ("srun", 3, 4, 1, 2)),
        (SRUN | TORCHRUN, ("torchrun", 5, 8, 1, 4)),
        (SRUN | OPEN_MPI, ("Open MPI", 2, 3, 0, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, ("PMI", 1, 2, 1, 1)),
    ],
)
def test_launchers_are_known_by_their_variables(environment, expected):
    found = find_rank(environment)
    assert (found.launcher, found.index, found.count, found.local_index, found.local_count) == expected
    assert str(found) == f"rank {expected[1]}/{expected[2]}"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH,
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", **BATCH},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "first", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "0"},
    ],
)
def test_one_process_is_no_rank(environment):
    assert find_rank(environment) is None


def test_a_torchrun_of_one_process_within_several_tasks_of_srun_does_not_split_further():
    """Whoever starts torchrun in each task and tells it nothing of the others has as many separate jobs."""
    assert find_rank({**SRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None


def test_the_callers_own_group_goes_first(monkeypatch):
    group = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 1, get_world_size=lambda: 3
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(distributed=group))
    found = find_rank(TORCHRUN)
    assert (found.index, found.count, found.launcher, found.local_index) == (1, 3, "torchrun", 1)
    group.is_initialized = lambda: False
    assert find_rank(TORCHRUN).index == 5
    group.is_available = lambda: False
    assert find_rank({}) is None
    group.is_available = group.is_initialized = lambda: True
    alone = find_rank({})
    assert (alone.launcher, alone.local_index, alone.local_count) == ("torch.distributed", 1, 1)


@pytest.mark.parametrize(
    ("tasks", "node", "expected"),
    [("4,3", 0, 4), ("4,3", 1, 3), ("1,4(x3)", 2, 4), ("2(x3),8", 3, 8), ("2(x3),8", 2, 2), ("5", 9, 5)],
)
def test_srun_may_put_other_numbers_of_tasks_on_other_nodes(tasks, node, expected):
    found = find_rank({**SRUN, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)})
    assert found.local_count == expected


def in_environment(monkeypatch, environment, cores, machine):
    for _, *names in ranks.LAUNCHERS:
        for name in (*names, "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: machine)


@pytest.mark.parametrize(
    ("environment", "cores", "expected"),
    [
        ({}, 16, 16),
        (TORCHRUN, 16, 4),
        (TORCHRUN, 8, 2),  # a container of 8 of the 16 cores: torchrun binds nobody
        (TORCHRUN, 2, 1),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 16, 8),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 1, 1),  # bound to cores
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 4, 4),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, 8, 2),  # four bound to each of two sockets
        (SRUN | {"SLURM_CPUS_PER_TASK": "6"}, 16, 6),
        (TORCHRUN | {"SLURM_CPUS_PER_TASK": "12"}, 12, 3),  # a task of Slurm in which torchrun makes four
        ({"SLURM_CPUS_PER_TASK": "6"}, 16, 6),
    ],
)
def test_ranks_on_one_machine_share_its_cores(monkeypatch, environment, cores, expected):
    in_environment(monkeypatch, environment, cores, machine=16)
    assert granted.cpu_count() == expected


def test_ranks_on_one_machine_share_its_memory(monkeypatch):
    in_environment(monkeypatch, {"SLURM_MEM_PER_NODE": "2048"}, 4, 4)
    assert granted.default_memory() == 1 << 30
    in_environment(monkeypatch, TORCHRUN | {"SLURM_MEM_PER_NODE": "2048"}, 4, 4)
    assert granted.default_memory() == 256 << 20
    in_environment(monkeypatch, TORCHRUN | {"SLURM_MEM_PER_CPU": "64"}, 4, 4)
    assert granted.default_memory() == 32 << 20, "a core for each of the four"


def test_a_rank_does_its_part_unless_told_otherwise(monkeypatch):
    in_environment(monkeypatch, TORCHRUN, 16, 16)
    assert options.ScoreOptions().shard == (5, 8) and options.ScoreOptions().has_fellows
    assert options.ScoreOptions(shard=None).shard is None and not options.ScoreOptions(shard=None).has_fellows
    assert options.ScoreOptions(shard=(1, 4)).shard == (1, 4) and not options.ScoreOptions(shard=(1, 4)).has_fellows
    in_environment(monkeypatch, {}, 16, 16)
    assert options.ScoreOptions().shard is None and not options.ScoreOptions(shard=(5, 8)).has_fellows
