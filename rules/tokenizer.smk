# The structure tokenizer, trained on the clean chains of its datasets.


def tokenizer_folder(name):
    """Where a tokenizer lies: in the results, or where the configuration says that a finished one is."""
    return Path(SETTINGS["tokenizers"][name].get("pretrained", RESULTS / "tokenizers" / name))


def tokenizer_weights(name):
    return tokenizer_folder(name) / "model.safetensors"


rule train_tokenizer:
    input:
        chains=lambda wildcards: chains(SETTINGS["tokenizers"][wildcards.tokenizer]["datasets"]),
    output:
        weights=RESULTS / "tokenizers/{tokenizer}/model.safetensors",
        config=RESULTS / "tokenizers/{tokenizer}/config.json",
        metrics=RESULTS / "tokenizers/{tokenizer}/metrics.csv",
        run=RESULTS / "tokenizers/{tokenizer}/run.json",
    log:
        LOGS / "tokenizers/{tokenizer}.log",
    benchmark:
        TIMINGS / "tokenizers/{tokenizer}.tsv"
    conda:
        "../envs/dplm2.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=2880,
        gpu=GPUS,
    params:
        chains=lambda wildcards: structure_folders(SETTINGS["tokenizers"][wildcards.tokenizer]["datasets"]),
        config=lambda wildcards: stage_config(
            "tokenizers", wildcards.tokenizer, without(SETTINGS["tokenizers"][wildcards.tokenizer], "tokenization")
        ),
        folder=subpath(output.weights, parent=True),
    shell:
        "python -m dplm2 tokenizer train --chains {params.chains:q} --out {params.folder} --state {STATE} --device {DEVICE}"
        " --config {params.config:q} --name {wildcards.tokenizer} 2>&1 | tee {log}"
