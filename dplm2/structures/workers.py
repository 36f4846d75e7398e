"""The processes that clean structures: forked from a server with all imports, with a memory limit.

Uses only the standard library, so that the server can be started before anything else is imported.
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
    """Start the process from which workers are forked; it imports their modules while the caller continues.

    Workers are not forked from the caller because it has threads.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


def worker_pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of ``workers`` processes."""
    start_server()
    context = multiprocessing.get_context("forkserver")
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_prepare)


class _WithoutPandas:
    """Keep Arrow from importing pandas, which takes longer than cleaning fifty chains and is not needed in a worker."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used in workers", name=name)


def _prepare() -> None:
    sys.meta_path.insert(0, _WithoutPandas)
    # A broken file may claim gigabytes: a MemoryError in this worker is better than a full machine.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def stop_workers(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Kill the processes of a pool."""
    processes = list((pool._processes or {}).values())  # noqa: SLF001  (no public function before 3.14)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def usable_cores() -> int:
    """Number of cores available to this process (on Linux; elsewhere all cores of the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
