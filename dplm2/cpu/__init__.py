"""Optimised arithmetic for CPUs, in one package with one switch.

Each function computes the same as a plain form elsewhere, within rounding, and saves at least a fifth of its time or
memory (products: on some processors only, hence the choice of library):

- ``products``: matrix products by the faster of two libraries (``kernels``), which ``routine`` measures, with weights
  prepared once for many calls;
- ``layers``: a layer of the language model, written out forward and backward;
- ``attention``: attention of packed samples, without padding (on GPUs by torch's kernel for it);
- ``caching``: values computed from weights, cached until these change.

``torch_private`` contains the undocumented functions of torch in use, each with its plain form, which replaces it in
untested releases of torch. Settings of the whole process are made only in ``process``.

Two environment variables:

- ``DPLM2_CPU``: ``lean`` (default), or ``plain``: torch's own forms (`dplm2.cpu.switch`);
- ``DPLM2_PRODUCTS``: ``auto`` (default), ``onednn`` or ``torch``: which library multiplies matrices
  (`dplm2.cpu.routine`).
"""
