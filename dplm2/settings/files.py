"""Relevant files of a folder, and how to obtain missing ones."""

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "config.json", "*.index.json")

OBTAIN_STRUCTURES = "put structure files there, or use 'fetch' with a list of downloads instead of 'files'"
OBTAIN_LIST = "a text file with one name per line; config/test_sets contains those of the paper"
OBTAIN_TOKENIZER = "name another folder, or a hub id such as airkingbd/struct_tokenizer"
OBTAIN_MODEL = "name another folder, or a hub id such as airkingbd/dplm2_650m"
OBTAIN_ESMFOLD = "download facebook/esmfold_v1 from the Hugging Face hub into that folder, or name the hub id"
OBTAIN_FOLDSEEK = "a Foldseek database or a folder of structures, for example of the PDB"
OBTAIN_PROBLEMS = "motif problems are YAML files; config/motifs contains the paper's"
OBTAIN_ESM_IF1 = "download esm_if1_gvp4_t16_142M_UR50.pt, the ESM-IF1 weights of fair-esm, to that place"
