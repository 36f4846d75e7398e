"""A Slurm cluster of two nodes on this machine, in its own folder."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CONTROLLER, NODE = "slurmctld", "slurmd"
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr", "sshare")
PROGRAMS = ("munged", CONTROLLER, NODE, *COMMANDS)
START_SECONDS = 30
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0
ReturnToService=2
KillWait=10
# A job that is found to use more memory than it asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
GresTypes=gpu
NodeName=DEFAULT CPUs=8 RealMemory=500000 Gres=gpu:h100:4
NodeName=node1 NodeHostname={host} NodeAddr={host} Port={first}
NodeName=node2 NodeHostname={host} NodeAddr={host} Port={second}
PartitionName=DEFAULT MaxTime=INFINITE State=UP
PartitionName=processors Nodes=node1,node2 Default=YES GraceTime=30
PartitionName=accelerators Nodes=node1,node2
PartitionName=urgent Nodes=node1,node2 PriorityTier=10
"""


def missing_programs() -> list[str]:
    """The programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if _found(name) is None]


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/local/sbin")


class Slurm:
    """Munge, one controller and two nodes, all processes of the user who runs the tests.

    Parameters
    ----------
    folder
        Folder for configuration, state and logs; its path must be short, since it contains a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen] = {}
        tools = folder / "bin"
        self.environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "Slurm":
        (self.folder / "munge").mkdir(mode=0o700)
        (self.folder / "state").mkdir()
        ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
        text = CONFIGURATION.format(folder=self.folder, user=getpass.getuser(), host=socket.gethostname(), **ports)
        (self.folder / "slurm.conf").write_text(text)
        for number in range(4):  # stand for the devices of GPUs, which Slurm counts and does not open
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu Type=h100 File={self.folder}/gpu[0-3]\n")
        self._write_tools()
        try:
            self._start_munge()
            self.start(CONTROLLER)
            for name in ("node1", "node2"):
                self.start(NODE, "-N", name)
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write_tools(self) -> None:
        """Commands with this configuration built in: the executor does not pass the variable to a job."""
        (self.folder / "bin").mkdir()
        for name in COMMANDS:
            tool = self.folder / "bin" / name
            tool.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {_found(name)} "$@"\n')
            tool.chmod(0o755)

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o600)
        self.start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={folder}/key",
            f"--socket={folder}/socket",
            f"--pid-file={folder}/pid",
            f"--log-file={folder}/log",
            f"--seed-file={folder}/seed",
            "--num-threads=2",
        )
        _until(lambda: (folder / "socket").exists(), "munge has not started", folder / "log")

    def start(self, program: str, *arguments: str) -> None:
        """Start or restart a daemon."""
        in_front = [] if program == "munged" else ["-D"]
        with (self.folder / f"{program}{''.join(arguments[1:2])}.out".replace("/", "_")).open("ab") as said:
            self._processes[" ".join([program, *arguments])] = subprocess.Popen(
                [_found(program), *in_front, *arguments],
                env={**os.environ, **self.environment},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def kill(self, program: str, *arguments: str) -> None:
        """Kill a daemon."""
        process = self._processes.pop(" ".join([program, *arguments]))
        process.kill()
        process.wait()

    def call(self, *command: str) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        return done.stdout

    def _wait(self) -> None:
        _until(
            lambda: (
                self.call("sinfo", "--noheader", "--Node", "--partition=processors", "--format=%T").split()
                == ["idle", "idle"]
            ),
            "the nodes are not ready",
            self.folder / "slurmctld.log",
        )


def _until(condition: Callable[[], bool], problem: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem}\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
