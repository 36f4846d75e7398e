"""The network of transformers with the weights of ours: what ours is held against."""

from transformers import EsmConfig, EsmForMaskedLM

from dplm2.language.esm import Esm2


def of_transformers(model: Esm2, attention: str = "sdpa") -> EsmForMaskedLM:
    """A copy of a network as transformers' class, in the same mode, with one of its forms of attention."""
    config = EsmConfig.from_dict(model.config.to_dict())
    theirs = EsmForMaskedLM._from_config(config, attn_implementation=attention)
    different = theirs.load_state_dict(model.state_dict(), strict=False)
    # Releases differ in where they keep the rotary frequencies, which follow from the configuration.
    assert all("inv_freq" in name for name in (*different.missing_keys, *different.unexpected_keys)), different
    return theirs.train(model.training)
