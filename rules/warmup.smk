# From a sequence model's weights to a multimodal model, before training on structure.


rule warm_up_model:
    input:
        tokenizer=lambda wildcards: weights("tokenizers", SETTINGS.models[wildcards.model].tokenizer),
        tokens=lambda wildcards: model_tokens(wildcards.model),
        source=lambda wildcards: PLAN.source_of(wildcards.model) or [],
    output:
        weights=RESULTS / "models/{model}/initial/model.safetensors",
        config=RESULTS / "models/{model}/initial/config.json",
        vocabulary=RESULTS / "models/{model}/initial/vocab.txt",
        tokenizer_config=RESULTS / "models/{model}/initial/tokenizer_config.json",
        card=RESULTS / "models/{model}/initial/README.md",
        metrics=RESULTS / "models/{model}/initial/metrics.csv",
        run=RESULTS / "models/{model}/initial/run.json",
    log:
        LOGS / "models/{model}-warmup.log",
    wildcard_constraints:
        model=PLAN.trained_here("models"),
    cache: CACHED
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("warm_up_model", "model"),
    params:
        within=this_package,
        launcher=launcher("warm_up_model", "model"),
        decides=decides("warm_up_model", "model"),
        files=files("warm_up_model", "model"),
        pretrained=lambda wildcards: PLAN.pretrained("tokenizers", SETTINGS.models[wildcards.model].tokenizer),
        operates=operates("warm_up_model", "model"),
        note=lambda wildcards, threads: Untold(
            option(
                "--note",
                PLAN.to_note(
                    "warm_up_model",
                    wildcards.model,
                    finished=("tokenizers", SETTINGS.models[wildcards.model].tokenizer),
                ),
            )
        ),
        tokenizer=lambda wildcards, input: folder("tokenizers", SETTINGS.models[wildcards.model].tokenizer),
        tokens=lambda wildcards, input: [
            str(LAYOUT.tokens(SETTINGS.models[wildcards.model].tokenizer, name))
            for name in SETTINGS.models[wildcards.model].datasets
        ],
        selections=lambda wildcards, input: selections(SETTINGS.models[wildcards.model].datasets),
        source=lambda wildcards, input: option("--source", folders_of(input.source)),
        out=subpath(output.weights, parent=True),
        state=state_folder,
    shell:
        "{params.within} {params.launcher} --log {log:q} {params.note} model warmup --tokenizer {params.tokenizer:q} --tokens {params.tokens:q}"
        " --selection {params.selections:q} {params.source} --out {params.out:q} --state {params.state:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.model}"
