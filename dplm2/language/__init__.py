"""The multimodal language model: vocabulary, network, diffusion, warm-up, sampling."""
