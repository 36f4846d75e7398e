# The structure tokenizer, trained on the clean chains of its datasets.


rule train_tokenizer:
    input:
        chains=lambda wildcards: chains(SETTINGS.tokenizers[wildcards.tokenizer].datasets),
        initial=lambda wildcards: PLAN.made_here(SETTINGS.tokenizers[wildcards.tokenizer].initial) or [],
    output:
        weights=RESULTS / "tokenizers/{tokenizer}/model.safetensors",
        config=RESULTS / "tokenizers/{tokenizer}/config.json",
        card=RESULTS / "tokenizers/{tokenizer}/README.md",
        metrics=RESULTS / "tokenizers/{tokenizer}/metrics.csv",
        run=RESULTS / "tokenizers/{tokenizer}/run.json",
    log:
        LOGS / "tokenizers/{tokenizer}.log",
    wildcard_constraints:
        tokenizer=PLAN.trained_here("tokenizers"),
    cache: CACHED
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("train_tokenizer", "tokenizer"),
    params:
        within=this_package,
        launcher=launcher("train_tokenizer", "tokenizer"),
        decides=decides("train_tokenizer", "tokenizer"),
        files=files("train_tokenizer", "tokenizer"),
        operates=operates("train_tokenizer", "tokenizer"),
        note=note("train_tokenizer", "tokenizer"),
        chains=lambda wildcards, input: [
            str(LAYOUT.structures(name)) for name in SETTINGS.tokenizers[wildcards.tokenizer].datasets
        ],
        out=subpath(output.weights, parent=True),
        state=state_folder,
    shell:
        "{params.within} {params.launcher} --log {log:q} {params.note} tokenizer train --chains {params.chains:q} --out {params.out:q} --state {params.state:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.tokenizer}"
