"""One task of a training that srun starts on several nodes: ``srun ... python -m dplm2.training.srun model train ...``.

It tells the process, by the environment variables of torchrun, which one it is and where the first one listens. No
agent stands in between: signals of Slurm reach the training itself, whose exit status becomes that of srun.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping

from dplm2.core.errors import DPLM2Error

FIRST_PORT, PORTS = 20_000, 12_000  # below those that Linux gives to outgoing connections


def environment(slurm: Mapping[str, str], address: str) -> dict[str, str]:
    """The variables by which torch.distributed finds its processes.

    Parameters
    ----------
    slurm
        Variables that srun sets for a task.
    address
        Of the machine of the first task.

    Raises
    ------
    DPLM2Error
        If the nodes have different numbers of tasks.
    """
    tasks, nodes = int(slurm["SLURM_STEP_NUM_TASKS"]), int(slurm["SLURM_STEP_NUM_NODES"])
    if tasks % nodes:
        raise DPLM2Error(f"srun: {tasks} tasks on {nodes} nodes; give each node as many, with --ntasks-per-node")
    return {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "GROUP_RANK": slurm["SLURM_NODEID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(FIRST_PORT + int(slurm["SLURM_JOB_ID"]) % PORTS),
        "TORCHELASTIC_RUN_ID": f"{slurm['SLURM_JOB_ID']}.{slurm['SLURM_STEP_ID']}",
    }


def first_address(nodes: str) -> str:
    """The address of the first of a list of Slurm's nodes, such as ``gpu[01-04]``.

    Raises
    ------
    DPLM2Error
        If Slurm does not tell.
    """
    first = _scontrol("show", "hostnames", nodes).split()[0]
    found = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first))
    return found[1] if found else first


def _scontrol(*arguments: str) -> str:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise DPLM2Error(f"scontrol {' '.join(arguments)}: {reason.strip()}") from error


def main() -> None:
    """Become the command of this task."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        sys.exit("dplm2: dplm2.training.srun is for tasks of srun, and this process is none")
    try:
        variables = environment(os.environ, first_address(os.environ["SLURM_STEP_NODELIST"]))
    except DPLM2Error as error:
        sys.exit(f"dplm2: {error}")
    os.execve(sys.executable, [sys.executable, "-m", "dplm2", *sys.argv[1:]], {**os.environ, **variables})


if __name__ == "__main__":
    main()
