"""Devices of a training: one process or several, and the communication between them.

Lightning Fabric selects the device, starts the processes, wraps the network for data parallelism and sets the
precision. Its wrapper is not used for fully sharded training: torch's ``fully_shard`` keeps every weight under its own
name, so that the saved state does not depend on the number of processes, and it also runs on CPUs, where it can be
tested.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.settings.training import TrainingSettings

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
# Older releases of torch fail or give wrong results, only on CPUs: tracing transformers' network; averaging over
# processes if gloo exchanges sharded gradients (2.8 sums them, 2.9 was not tested).
COMPILES_ON_CPU, SHARDS_ON_CPU = "2.7", "2.10"


class Machine:
    """The devices of a training and the processes on them.

    Attributes
    ----------
    device
        Device of this process.
    rank, processes
        Number of this process, and number of processes.
    main
        Whether this process writes the results.
    """

    def __init__(self, settings: TrainingSettings, device: str) -> None:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

        outside = "TORCHELASTIC_RUN_ID" in os.environ
        local, nodes = _layout(settings, device, outside)
        several = outside and int(os.environ["WORLD_SIZE"]) > 1 or local != 1
        self.sharded = settings.strategy == "fsdp"
        self.fabric = Fabric(
            accelerator=device,
            devices=local,
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            precision=PRECISIONS[settings.precision],
            # Given explicitly, because Fabric would treat any Slurm job as one of several processes.
            plugins=[TorchElasticEnvironment() if outside else LightningEnvironment()],
        )
        self.fabric.launch()
        self.device: torch.device = self.fabric.device
        self.rank, self.processes = self.fabric.global_rank, self.fabric.world_size
        self.main = self.rank == 0
        if self.processes == 1 and settings.strategy != "auto":
            raise ConfigError(f"training.strategy: {settings.strategy} has no effect with one process; omit it")
        if self.sharded and self.device.type == "cpu":
            _require(SHARDS_ON_CPU, "training.strategy: fsdp")
        # Small messages are exchanged via the host, so that they never wait for a GPU.
        self._messages = distributed.new_group(backend="gloo") if self.processes > 1 else None
        self._undo_sharding: Callable[[], None] = lambda: None
        self._wrapped: nn.Module | None = None

    def share(self, batches: int) -> int:
        """Number of an update's batches per process, so that the number of processes does not change the update.

        Raises
        ------
        ConfigError
            If they cannot be shared evenly.
        """
        if batches % self.processes:
            raise ConfigError(
                f"training.accumulate: {batches} batches per update cannot be shared evenly by {self.processes} "
                f"processes; set it to a multiple of {self.processes}"
            )
        return batches // self.processes

    def agree(self, module: nn.Module) -> None:
        """Copy the main process's weights and buffers to every process."""
        if self.processes > 1:
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    distributed.broadcast(tensor, src=0)

    def wrap(self, module: nn.Module, unused_parameters: bool) -> nn.Module:
        """The network as called by the loop, with gradients averaged over processes."""
        if self.processes > 1 and not self.sharded:
            # Fabric passes these to DistributedDataParallel.
            self.fabric.strategy._ddp_kwargs["find_unused_parameters"] = unused_parameters
            module = self.fabric.setup_module(module)
        self._wrapped = module
        return module

    def shard(self, module: nn.Module) -> None:
        """Shard the weights of ``module`` over the processes, in place; `unshard` undoes it."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.processes,))
        before = [
            (part, part.__class__, dict(part._forward_pre_hooks), dict(part._forward_hooks))
            for part in module.modules()
        ]
        for part in [*blocks(module), module]:
            fully_shard(part, mesh=mesh)

        def undo() -> None:
            for owner in module.modules():
                for name, parameter in list(owner._parameters.items()):
                    if parameter is not None:
                        full_parameter = nn.Parameter(gathered(parameter.detach()), parameter.requires_grad)
                        owner._parameters[name] = full_parameter
            for part, kind, pre_hooks, hooks in before:
                part.__class__ = kind
                for now, then in ((part._forward_pre_hooks, pre_hooks), (part._forward_hooks, hooks)):
                    for key in set(now) - set(then):
                        del now[key]

        self._undo_sharding = undo

    def forget_gathered(self, module: nn.Module) -> None:
        """Free the gathered weights after a forward pass without backward pass; they would be reused."""
        if self.sharded:
            for part in module.modules():
                if hasattr(part, "reshard"):
                    part.reshard()

    def unshard(self) -> None:
        """Undo `shard`: each process has the whole network again."""
        self._undo_sharding()
        self._undo_sharding = lambda: None

    @contextlib.contextmanager
    def gradients(self, last: bool) -> Iterator[None]:
        """Within this context, backward passes exchange gradients only in the ``last`` one before an update."""
        if self.processes == 1:
            yield
        elif self.sharded:
            self._wrapped.set_requires_gradient_sync(last)
            yield
        else:
            with self.fabric.no_backward_sync(self._wrapped, enabled=not last):
                yield

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of forward passes."""
        return self.fabric.autocast()

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch on this process's device."""
        if self.device.type == "cpu":
            return batch
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def largest(self, flags: list[int]) -> list[int]:
        """Maximum of each number over the processes."""
        if self.processes == 1:
            return flags
        message = torch.tensor(flags)
        distributed.all_reduce(message, distributed.ReduceOp.MAX, group=self._messages)
        return message.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        if self.processes == 1:
            return [value]
        values = [None] * self.processes
        distributed.all_gather_object(values, value, group=self._messages)
        return values

    def from_main(self, action: Callable[[], Any]) -> Any:
        """Run a function in the main process and return its result, or raise its error, in all."""
        if self.processes == 1:
            return action()
        result, problem = None, None
        if self.main:
            try:
                result = action()
            except DPLM2Error as error:
                problem = error
        message = [result, problem]
        distributed.broadcast_object_list(message, src=0, group=self._messages)
        if message[1] is not None:
            raise message[1]
        return message[0]


def _layout(settings: TrainingSettings, device: str, outside: bool) -> tuple[int | str, int]:
    """Processes per machine and number of machines."""
    if not outside:
        if settings.nodes > 1:
            raise ConfigError(
                f"training.nodes: {settings.nodes} machines need their processes started by srun or torchrun "
                "(docs/cluster.md); set it to 1 to train on this machine alone"
            )
        if settings.devices == "auto":
            available = torch.cuda.device_count() if device in ("auto", "cuda") else 1
            return max(1, available), 1
        return settings.devices, 1
    local, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if settings.devices not in (1, "auto", local):
        raise ConfigError(f"training.devices: {local} processes were started here, not {settings.devices}; omit it")
    nodes = everywhere // local
    if settings.nodes not in (1, nodes):
        raise ConfigError(
            f"training.nodes: processes were started on {nodes} machines, not on {settings.nodes}; omit it"
        )
    return local, nodes


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """A network that is compiled when it is first called.

    On a GPU each of its blocks is compiled in place: equal blocks are compiled once, which takes a small fraction of
    the time for the whole network. On a CPU the whole network is compiled, since samples packed without padding have
    varying shapes (`dplm2.cpu.attention`).
    """
    parts = [part for part in blocks(module) if type(part) is not nn.ModuleList and any(True for _ in part.children())]
    if device.type == "cpu":
        _require(COMPILES_ON_CPU, "training.compile")
    if device.type == "cpu" or not parts:
        return torch.compile(module, dynamic=True)
    for part in parts:
        part.compile(dynamic=True)
    return module


def _require(release: str, key: str) -> None:
    if torch.__version__ < release:
        raise ConfigError(f"{key} on a CPU needs torch {release} or newer (here {torch.__version__}); omit it")


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: the members of its outermost module lists that have weights."""
    found: list[nn.Module] = []
    for part in module.children():
        if isinstance(part, nn.ModuleList):
            found += [member for member in part if any(True for _ in member.parameters())]
        else:
            found += blocks(part)
    return found


def gathered(tensor: Tensor) -> Tensor:
    """A tensor with its shards from all processes; every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sharded_like(value: Tensor, template: Tensor) -> Tensor:
    """``value`` on the device of ``template``, and sharded like it."""
    if not hasattr(template, "full_tensor"):
        return value.to(template.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(template.device), template.device_mesh, template.placements)
