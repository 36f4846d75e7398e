"""Which files of a folder count, and how to get files that are missing."""

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "config.json", "*.index.json")

OBTAIN_STRUCTURES = "put structure files there, or name what to download under 'fetch' in place of 'files'"
OBTAIN_LIST = "write it: one name a line"
OBTAIN_ESM_IF1 = "download esm_if1_gvp4_t16_142M_UR50.pt, the ESM-IF1 weights of fair-esm, to that place"
