# Chains to tokens, shard by shard: a new structure reruns one shard.


rule encode_tokens:
    input:
        chains=RESULTS / "structures/{dataset}/part-{shard}.parquet",
        tokenizer=lambda wildcards: weights("tokenizers", wildcards.tokenizer),
    output:
        tokens=RESULTS / "tokens/{tokenizer}/{dataset}/part-{shard}.parquet",
    log:
        LOGS / "tokens/{tokenizer}-{dataset}-{shard}.log",
    cache: CACHED
    group:
        grouped("encode")
    localrule: IN_A_JOB
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("encode_tokens", "tokenizer"),
        shards=1,
    params:
        within=this_package,
        decides=decides("encode_tokens", "tokenizer"),
        pretrained=lambda wildcards: PLAN.pretrained("tokenizers", wildcards.tokenizer),
        operates=operates("encode_tokens", "tokenizer"),
        note=note("encode_tokens", "tokenizer", finished="tokenizers"),
        tokenizer=lambda wildcards, input: folder("tokenizers", wildcards.tokenizer),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} tokens encode {input.chains:q} --tokenizer {params.tokenizer:q} --out {output.tokens:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.tokenizer}"
