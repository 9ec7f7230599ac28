"""Scoring by MPI: `mpirun -n 4 python -m mpi4py examples/hpc/mpi_score.py RUN [DATA]`.

Each rank counts every n-th shard, and rank 0 joins what it gathers. `-m mpi4py` ends all ranks when one of them fails.
"""

import sys

from mpi4py import MPI

import streamdissect as sd


def main(run: str, data: str | None = None) -> None:
    world = MPI.COMM_WORLD
    mine = range(world.rank, sd.RunDir(run).n_shards, world.size)
    parts = world.gather(sd.score_partial(run, data, shards=mine), root=0)
    if parts is not None:
        print(sd.merge(parts, out=f"{run}/scores/mpi"))


if __name__ == "__main__":
    main(*sys.argv[1:])
