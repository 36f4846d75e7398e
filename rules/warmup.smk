# From a sequence model's weights to a multimodal model, before training on structure.


rule warm_up_model:
    input:
        tokenizer=lambda wildcards: tokenizer_weights(SETTINGS["models"][wildcards.model]["tokenizer"]),
        tokens=lambda wildcards: model_tokens(wildcards.model),
    output:
        weights=RESULTS / "models/{model}/initial/model.safetensors",
        config=RESULTS / "models/{model}/initial/config.json",
        run=RESULTS / "models/{model}/initial/run.json",
    params:
        config=lambda wildcards: stage_config(
            "models", wildcards.model, without(SETTINGS["models"][wildcards.model], "training", "diffusion")
        ),
        tokenizer=lambda wildcards: tokenizer_folder(SETTINGS["models"][wildcards.model]["tokenizer"]),
        tokens=lambda wildcards: model_token_folders(wildcards.model),
        selections=lambda wildcards: selections(SETTINGS["models"][wildcards.model]["datasets"]),
        folder=subpath(output.weights, parent=True),
    log:
        LOGS / "models/{model}-warmup.log",
    benchmark:
        TIMINGS / "models/{model}-warmup.tsv"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=GPUS,
    conda:
        "../envs/dplm2.yaml"
    shell:
        "python -m dplm2 model warmup --tokenizer {params.tokenizer} --tokens {params.tokens:q} --selection {params.selections:q}"
        " --out {params.folder} --state {STATE} --device {DEVICE}"
        " --config {params.config:q} --name {wildcards.model} 2>&1 | tee {log}"


def model_tokens(name):
    model = SETTINGS["models"][name]
    return tokens_of(model["tokenizer"], model["datasets"]) + selections(model["datasets"])


def model_token_folders(name):
    model = SETTINGS["models"][name]
    return token_folders(model["tokenizer"], model["datasets"])
