# From a sequence model's weights to a multimodal model, before training on structure.


rule warm_up_model:
    input:
        tokenizer=lambda wildcards: tokenizer_weights(SETTINGS["models"][wildcards.model]["tokenizer"]),
        tokens=lambda wildcards: model_tokens(wildcards.model),
        source=lambda wildcards: source_model(wildcards.model),
        files=lambda wildcards: warmup_files(wildcards.model),
    output:
        weights=RESULTS / "models/{model}/initial/model.safetensors",
        config=RESULTS / "models/{model}/initial/config.json",
        run=RESULTS / "models/{model}/initial/run.json",
    log:
        LOGS / "models/{model}-warmup.log",
    benchmark:
        TIMINGS / "models/{model}-warmup.tsv"
    wildcard_constraints:
        model=trained_here("models"),
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        state=str(STATE),
        mem_mb=4000,
        runtime=1440,
        gpu=GPUS,
    params:
        config=lambda wildcards: stage_config(
            "models", wildcards.model, without(SETTINGS["models"][wildcards.model], "training", "diffusion", "lora")
        ),
        tokenizer=lambda wildcards: tokenizer_folder(SETTINGS["models"][wildcards.model]["tokenizer"]),
        tokens=lambda wildcards: model_token_folders(wildcards.model),
        selections=lambda wildcards: selections(SETTINGS["models"][wildcards.model]["datasets"]),
        source=lambda wildcards, input: f"--source {Path(input.source).parent}" if input.source else "",
        folder=subpath(output.weights, parent=True),
    shell:
        "python -m dplm2 model warmup --tokenizer {params.tokenizer} --tokens {params.tokens:q} --selection {params.selections:q}"
        " {params.source} --out {params.folder} --state {resources.state} --device {resources.device}"
        " --config {params.config:q} --name {wildcards.model} 2>&1 | tee {log}"
