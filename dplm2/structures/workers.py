"""The processes that clean structures: forked from a server that has imported what they need, bounded in memory.

The standard library alone, so that the server can be started before anything else is imported.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import resource
import sys
from multiprocessing import forkserver

IMPORTED = ["dplm2.structures.shards", "biotite.structure.io.pdbx"]
WORKER_MEMORY = 6 << 30


def start_server() -> None:
    """Start the process that workers are forked from; it imports what they need while the caller goes on.

    Workers are not forked from the caller, which has threads.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


def worker_pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of ``workers`` processes."""
    start_server()
    context = multiprocessing.get_context("forkserver")
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_prepare)


class _WithoutPandas:
    """Arrow imports pandas where it can: longer than cleaning fifty chains, and of no use to a worker."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("workers do without pandas", name=name)


def _prepare() -> None:
    sys.meta_path.insert(0, _WithoutPandas)
    # A broken file may claim gigabytes: better a MemoryError in this worker than a full machine.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def stop_workers(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """End the processes of a pool, whatever they are doing."""
    processes = list((pool._processes or {}).values())  # noqa: SLF001  (before 3.14 there is no public way to end them)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def usable_cores() -> int:
    """Cores that this process may use (Linux knows; elsewhere all of the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
