"""Scoring on a Dask cluster: `python examples/hpc/dask_cluster.py RUN [DATA]`, on two processes of this machine.

With `--slurm` the workers are jobs of Slurm (dask-jobqueue); change what they ask for to what your site has. Dask
carries the counters of every shard, units x concepts of 8 bytes, to this process; `streamdissect score` does not.
"""

import argparse

from distributed import Client, LocalCluster

import streamdissect as sd


def open_cluster(slurm: bool, workers: int):
    if not slurm:
        return LocalCluster(n_workers=workers, threads_per_worker=1)
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=1, processes=1, memory="4GB", walltime="00:30:00", local_directory="/tmp")
    cluster.scale(jobs=workers)
    return cluster


def main(run: str, data: str | None, slurm: bool, workers: int) -> None:
    with open_cluster(slurm, workers) as cluster, Client(cluster) as client:
        shards = range(sd.RunDir(run).n_shards)
        waiting = [client.submit(sd.score_partial, run, data, shards=[shard], threads=1) for shard in shards]
        print(sd.merge(client.gather(waiting), out=f"{run}/scores/dask"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
