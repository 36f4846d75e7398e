"""Settings of the whole process, which only `prepare_process` makes; importing the package makes none."""

import os
import sys


def prepare_process() -> None:
    """Make the process's settings for networks; may be called repeatedly.

    It is called by the command line before anything else, by ``DPLM2.from_pretrained``,
    ``StructureTokenizer.from_pretrained`` and ``MultimodalEsm.from_pretrained``, and by the constructors of the latter
    two, for training. It imports no library: settings of a library are made by the first call after its import.

    - OpenMP's threads wait passively (environment variable ``OMP_WAIT_POLICY``, unless already set). Active waiting
      makes small networks a hundred times slower on a machine with other work. OpenMP reads the variable when torch is
      imported; afterwards it is not set.
    - Denormal numbers (below 1.2e-38 in float32) are flushed to zero: CPUs take twenty times longer with them, and the
      optimiser's averages of rare tokens' gradients decay to such numbers after a few hundred steps. Threads inherit
      the setting from the thread that starts them.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return
    torch.set_flush_denormal(True)
