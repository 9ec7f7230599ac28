"""Scoring by submitit: `python examples/hpc/submitit_score.py RUN [DATA]` submits a Slurm array and waits for it.

With `--local` the jobs are processes of this machine. Logs and pickled results go into RUN.submitit; every node has to
see that folder, and RUN.
"""

import argparse

import submitit

import streamdissect as sd


def score_share(run: str, data: str | None, worker: int, workers: int) -> sd.Partial:
    return sd.score_partial(run, data, shards=range(worker, sd.RunDir(run).n_shards, workers))


def main(run: str, data: str | None, local: bool, workers: int) -> None:
    executor = submitit.AutoExecutor(f"{run}.submitit", cluster="local" if local else "slurm")
    executor.update_parameters(timeout_min=30, cpus_per_task=1, mem_gb=4)
    jobs = executor.map_array(score_share, *zip(*((run, data, i, workers) for i in range(workers)), strict=True))
    print(sd.merge([job.result() for job in jobs], out=f"{run}/scores/submitit"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
