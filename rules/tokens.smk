# Chains to tokens, shard by shard: one new structure is one shard's work.


rule encode_tokens:
    input:
        chains=RESULTS / "structures/{dataset}/part-{shard}.parquet",
        tokenizer=lambda wildcards: tokenizer_weights(wildcards.tokenizer),
    output:
        tokens=RESULTS / "tokens/{tokenizer}/{dataset}/part-{shard}.parquet",
    log:
        LOGS / "tokens/{tokenizer}-{dataset}-{shard}.log",
    benchmark:
        TIMINGS / "tokens/{tokenizer}-{dataset}-{shard}.tsv"
    cache: True
    conda:
        "../envs/dplm2.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=GPUS,
    params:
        config=lambda wildcards: stage_config(
            "tokenizers",
            wildcards.tokenizer,
            {"tokenization": SETTINGS["tokenizers"][wildcards.tokenizer]["tokenization"]},
        ),
        tokenizer=lambda wildcards: tokenizer_folder(wildcards.tokenizer),
    shell:
        "python -m dplm2 tokens encode {input.chains} --tokenizer {params.tokenizer} --out {output.tokens} --device {DEVICE}"
        " --config {params.config:q} --name {wildcards.tokenizer} 2>&1 | tee {log}"


def tokens_of(tokenizer, datasets):
    return [
        RESULTS / f"tokens/{tokenizer}/{dataset}/part-{shard}.parquet"
        for dataset in datasets
        for shard in SHARDS[dataset]
    ]


def token_folders(tokenizer, datasets):
    return [str(RESULTS / "tokens" / tokenizer / dataset) for dataset in datasets]


def all_tokens():
    models = SETTINGS["models"].values()
    return sorted({part for model in models for part in tokens_of(model["tokenizer"], model["datasets"])})
