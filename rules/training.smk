# Diffusion training of the multimodal model.


rule train_model:
    input:
        initial=rules.warm_up_model.output.weights,
        tokens=lambda wildcards: model_tokens(wildcards.model),
    output:
        weights=RESULTS / "models/{model}/model.safetensors",
        config=RESULTS / "models/{model}/config.json",
        metrics=RESULTS / "models/{model}/metrics.csv",
        run=RESULTS / "models/{model}/run.json",
    log:
        LOGS / "models/{model}.log",
    benchmark:
        TIMINGS / "models/{model}.tsv"
    wildcard_constraints:
        model=trained_here("models"),
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        state=str(STATE),
        mem_mb=4000,
        runtime=4320,
        gpu=GPUS,
    params:
        config=lambda wildcards: stage_config(
            "models",
            wildcards.model,
            without(SETTINGS["models"][wildcards.model], "warmup", "network", "structure_head"),
        ),
        initial=subpath(input.initial, parent=True),
        tokens=lambda wildcards: model_token_folders(wildcards.model),
        selections=lambda wildcards: selections(SETTINGS["models"][wildcards.model]["datasets"]),
        folder=subpath(output.weights, parent=True),
    shell:
        "python -m dplm2 model train --initial {params.initial} --tokens {params.tokens:q} --selection {params.selections:q}"
        " --out {params.folder} --state {resources.state} --device {resources.device}"
        " --config {params.config:q} --name {wildcards.model} 2>&1 | tee {log}"
