"""Settings of the whole process; importing sets nothing."""

import os
import sys


def prepare_process() -> None:
    """Set what computing with networks needs in this process; calling it again changes nothing.

    The command line calls it first, and so do ``DPLM2.from_pretrained``, ``StructureTokenizer.from_pretrained``,
    ``MultimodalEsm.from_pretrained`` and the constructors of the latter two, which training uses. No library is
    imported for it: what concerns one is set by the first call after that library was imported.

    - OpenMP's threads wait passively (environment variable ``OMP_WAIT_POLICY``, unless it is set already). Threads that
      wait actively make small networks a hundred times slower on a machine that has other work to do. OpenMP reads it
      when torch is imported, so it is set only before that.
    - Numbers too small for a normal float (below 1.2e-38 in float32) become zero: processors take twenty times longer
      with them. The optimiser's averages of rare tokens' gradients decay to such numbers after some hundred steps.
      Threads inherit it from the thread that starts them.
    - transformers knows the attention of packed samples by its name (`dplm2.cpu.attention`).
    """
    torch = sys.modules.get("torch")
    if torch is None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return
    torch.set_flush_denormal(True)
    if "transformers" in sys.modules:
        from dplm2.cpu import attention

        attention.register()
