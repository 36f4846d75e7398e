# Diffusion training of the multimodal model.


rule train_model:
    input:
        initial=rules.warm_up_model.output.weights,
        tokens=lambda wildcards: model_tokens(wildcards.model),
    output:
        weights=RESULTS / "models/{model}/model.safetensors",
        config=RESULTS / "models/{model}/config.json",
        vocabulary=RESULTS / "models/{model}/vocab.txt",
        tokenizer_config=RESULTS / "models/{model}/tokenizer_config.json",
        card=RESULTS / "models/{model}/README.md",
        metrics=RESULTS / "models/{model}/metrics.csv",
        run=RESULTS / "models/{model}/run.json",
    log:
        LOGS / "models/{model}.log",
    wildcard_constraints:
        model=PLAN.trained_here("models"),
    cache: CACHED
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("train_model", "model"),
    params:
        within=this_package,
        launcher=launcher("train_model", "model"),
        decides=decides("train_model", "model"),
        operates=operates("train_model", "model"),
        initial=subpath(input.initial, parent=True),
        tokens=lambda wildcards, input: [
            str(LAYOUT.tokens(SETTINGS.models[wildcards.model].tokenizer, name))
            for name in SETTINGS.models[wildcards.model].datasets
        ],
        selections=lambda wildcards, input: selections(SETTINGS.models[wildcards.model].datasets),
        out=subpath(output.weights, parent=True),
        state=state_folder,
    shell:
        "{params.within} {params.launcher} --log {log:q} model train --initial {params.initial:q} --tokens {params.tokens:q}"
        " --selection {params.selections:q} --out {params.out:q} --state {params.state:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.model}"
