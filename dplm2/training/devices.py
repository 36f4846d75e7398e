"""Where training runs: one process or several, and how they speak with one another.

Lightning Fabric picks the device, starts the processes, wraps the network for data parallelism and sets the precision.
For fully sharded training its wrapper is not used: torch's ``fully_shard`` keeps every weight under its own name, which
keeps the saved state the same whatever the number of processes, and it runs on CPUs too, where it can be tested.
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
# Releases of torch below these fail or err, on CPUs alone: tracing transformers' network; averaging over processes
# where sharded gradients are exchanged by gloo (2.8 adds them up, 2.9 was not tried).
COMPILES_ON_CPU, SHARDS_ON_CPU = "2.7", "2.10"


class Machine:
    """The devices of a training and the processes on them.

    Attributes
    ----------
    device
        Where this process computes.
    rank, processes
        Number of this process, and how many there are.
    main
        Whether this process is the one that writes.
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
            # Named, since left alone Fabric would take any job of Slurm's for one of several processes.
            plugins=[TorchElasticEnvironment() if outside else LightningEnvironment()],
        )
        self.fabric.launch()
        self.device: torch.device = self.fabric.device
        self.rank, self.processes = self.fabric.global_rank, self.fabric.world_size
        self.main = self.rank == 0
        if self.processes == 1 and settings.strategy != "auto":
            raise ConfigError(f"training.strategy: {settings.strategy} has no effect with one process; leave it out")
        if self.sharded and self.device.type == "cpu":
            _require(SHARDS_ON_CPU, "training.strategy: fsdp")
        # Small messages go over the host, so that they never wait for a GPU.
        self._messages = distributed.new_group(backend="gloo") if self.processes > 1 else None
        self._undo_sharding: Callable[[], None] = lambda: None
        self._wrapped: nn.Module | None = None

    def share(self, batches: int) -> int:
        """How many of an update's batches each process takes, so that their number does not change the update.

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
        """Give every process the main one's weights and buffers, whatever each one began with."""
        if self.processes > 1:
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    distributed.broadcast(tensor, src=0)

    def wrap(self, module: nn.Module, unused_parameters: bool) -> nn.Module:
        """The network as the loop calls it: with gradients averaged over processes."""
        if self.processes > 1 and not self.sharded:
            # Fabric hands these on to DistributedDataParallel.
            self.fabric.strategy._ddp_kwargs["find_unused_parameters"] = unused_parameters
            module = self.fabric.setup_module(module)
        self._wrapped = module
        return module

    def shard(self, module: nn.Module) -> None:
        """Share out the weights of ``module`` among the processes, in place; `unshard` makes them whole again."""
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
                        whole_parameter = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
                        owner._parameters[name] = whole_parameter
            for part, kind, pre_hooks, hooks in before:
                part.__class__ = kind
                for now, then in ((part._forward_pre_hooks, pre_hooks), (part._forward_hooks, hooks)):
                    for key in set(now) - set(then):
                        del now[key]

        self._undo_sharding = undo

    def forget_gathered(self, module: nn.Module) -> None:
        """Drop the whole weights that a forward pass without backward pass leaves behind; they would be used again."""
        if self.sharded:
            for part in module.modules():
                if hasattr(part, "reshard"):
                    part.reshard()

    def unshard(self) -> None:
        """Undo `shard`: each process holds the whole network again."""
        self._undo_sharding()
        self._undo_sharding = lambda: None

    @contextlib.contextmanager
    def gradients(self, last: bool) -> Iterator[None]:
        """Within this context backward passes exchange gradients only if this is the ``last`` one before an update."""
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
        """Each number's maximum over the processes."""
        if self.processes == 1:
            return flags
        message = torch.tensor(flags)
        distributed.all_reduce(message, distributed.ReduceOp.MAX, group=self._messages)
        return message.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in their order."""
        if self.processes == 1:
            return [value]
        values = [None] * self.processes
        distributed.all_gather_object(values, value, group=self._messages)
        return values

    def from_main(self, action: Callable[[], Any]) -> Any:
        """Let the main process do something and give its result, or its error, to all."""
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
        raise ConfigError(
            f"training.devices: {local} processes were started here, not {settings.devices}; leave it out"
        )
    nodes = everywhere // local
    if settings.nodes not in (1, nodes):
        raise ConfigError(
            f"training.nodes: processes were started on {nodes} machines, not on {settings.nodes}; leave it out"
        )
    return local, nodes


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """A network that is compiled when it is first called.

    On a GPU each of its blocks is, in place: all that are alike are compiled once, which takes a small part of the time
    that the whole network would take. On a CPU the whole is, since samples that are packed without padding come in
    shapes of their own (`dplm2.cpu.attention`).
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
        raise ConfigError(f"{key} on a CPU needs torch {release} or newer (here {torch.__version__}); leave it out")


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: the members of its outermost module lists that have weights."""
    found: list[nn.Module] = []
    for part in module.children():
        if isinstance(part, nn.ModuleList):
            found += [member for member in part if any(True for _ in member.parameters())]
        else:
            found += blocks(part)
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all that other processes hold of it; every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, template: Tensor) -> Tensor:
    """``value`` on the device of ``template``, shared out as it is."""
    if not hasattr(template, "full_tensor"):
        return value.to(template.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(template.device), template.device_mesh, template.placements)
