# The structure tokenizer, trained on the clean chains of its datasets.


rule train_tokenizer:
    input:
        chains=lambda wildcards: chains(SETTINGS["tokenizers"][wildcards.tokenizer]["datasets"]),
        initial=lambda wildcards: initial_tokenizer(wildcards.tokenizer),
    output:
        weights=RESULTS / "tokenizers/{tokenizer}/model.safetensors",
        config=RESULTS / "tokenizers/{tokenizer}/config.json",
        metrics=RESULTS / "tokenizers/{tokenizer}/metrics.csv",
        run=RESULTS / "tokenizers/{tokenizer}/run.json",
    log:
        LOGS / "tokenizers/{tokenizer}.log",
    benchmark:
        TIMINGS / "tokenizers/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=trained_here("tokenizers"),
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        state=str(STATE),
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
        "python -m dplm2 tokenizer train --chains {params.chains:q} --out {params.folder} --state {resources.state}/tokenizer --device {resources.device}"
        " --config {params.config:q} --name {wildcards.tokenizer} 2>&1 | tee {log}"
