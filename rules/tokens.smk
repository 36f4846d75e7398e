# Chains to tokens, shard by shard: one new structure is one shard's work. With Snakemake's --cache, working directories
# share tokens (which is why this rule has no benchmark: a cached result has no time of its own).


rule encode_tokens:
    input:
        chains=RESULTS / "structures/{dataset}/part-{shard}.parquet",
        tokenizer=lambda wildcards: tokenizer_weights(wildcards.tokenizer),
    output:
        tokens=RESULTS / "tokens/{tokenizer}/{dataset}/part-{shard}.parquet",
    log:
        LOGS / "tokens/{tokenizer}-{dataset}-{shard}.log",
    cache: True
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
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
        "python -m dplm2 tokens encode {input.chains} --tokenizer {params.tokenizer} --out {output.tokens} --device {resources.device}"
        " --config {params.config:q} --name {wildcards.tokenizer} 2>&1 | tee {log}"
