"""Leaner arithmetic for processors, all in one room and behind one switch.

Everything here computes what a plain form elsewhere computes, within rounding, and gains at least a fifth of that
form's time or memory (products: on some processors only, which is why their library is chosen):

- ``products``: matrix products by the faster of two libraries, with weights prepared once for many calls;
- ``layers``: a layer of the language model, written out forward and backward for training;
- ``attention``: attention of packed samples, without padding (on GPUs by torch's kernel for it);
- ``caching``: what is computed from weights, kept until they change.

``torch_private`` holds the undocumented functions of torch that these need, each with its plain form, which takes over
in releases of torch that were not tried. ``process`` is the one place where settings of the whole process are made.

Two environment variables:

- ``DPLM2_CPU``: ``lean`` (default), or ``plain``: transformers' and torch's own forms (`dplm2.cpu.switch`);
- ``DPLM2_PRODUCTS``: ``auto`` (default), ``onednn`` or ``torch``: which library multiplies matrices
  (`dplm2.cpu.products`).
"""
