"""Scoring by an engine of your own: `python examples/score_in_pool.py RUN`.

`score_partial` takes shards and returns a partial result that can be pickled; `merge` joins them in any order. The pool
of this script could as well be Dask, MPI, submitit or Ray.
"""

import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import streamdissect as sd


def score_shard(run: str, shard: int) -> sd.Partial:
    return sd.score_partial(run, shards=[shard], threads=1)


def main(run: str) -> None:
    shards = range(sd.RunDir(run).n_shards)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(score_shard, run, shard) for shard in shards]
        result = sd.merge([done.result() for done in as_completed(waiting)], out=f"{run}/scores/pool")
    print(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
