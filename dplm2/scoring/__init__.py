"""Log-likelihoods of proteins and effects of mutations."""
