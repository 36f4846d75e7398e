# What the tokenizers, the models and their samples are worth.


rule evaluate_tokenizer:
    input:
        tokenizer=lambda wildcards: tokenizer_weights(wildcards.tokenizer),
        chains=lambda wildcards: chains([wildcards.dataset]),
        tokens=lambda wildcards: (
            tokens_of(wildcards.tokenizer, [wildcards.dataset]) if wildcards.variant == "trained" else []
        ),
    output:
        metrics=RESULTS / "evaluation/tokenizers/{tokenizer}/{dataset}/{variant}/metrics.parquet",
        summary=report(
            RESULTS / "evaluation/tokenizers/{tokenizer}/{dataset}/{variant}/summary.csv",
            caption="captions/reconstruction.rst",
            category="Metrics",
            subcategory="reconstruction",
            labels={"tokenizer": "{tokenizer}", "dataset": "{dataset}", "weights": "{variant}"},
        ),
        run=RESULTS / "evaluation/tokenizers/{tokenizer}/{dataset}/{variant}/run.json",
    log:
        LOGS / "evaluation/{tokenizer}-{dataset}-{variant}.log",
    benchmark:
        TIMINGS / "evaluation/{tokenizer}-{dataset}-{variant}.tsv"
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        mem_mb=4000,
        runtime=240,
        gpu=GPUS,
    params:
        config=lambda wildcards: evaluation_config(
            "min_length", "max_length", "excluded", "bootstrap_samples", "batch_size"
        ),
        tokenizer=lambda wildcards: tokenizer_folder(wildcards.tokenizer),
        chains=lambda wildcards: structure_folders([wildcards.dataset]),
        split=lambda wildcards: split_option(
            wildcards.dataset, SETTINGS["tokenizers"][wildcards.tokenizer].get("datasets", [])
        ),
        variant=lambda wildcards, input: f"--tokens {Path(input.tokens[0]).parent}" if input.tokens else "--untrained",
        folder=subpath(output.metrics, parent=True),
    shell:
        "python -m dplm2 evaluate reconstruction --tokenizer {params.tokenizer} --chains {params.chains:q} {params.split}"
        " {params.variant} --name {wildcards.tokenizer} --out {params.folder} --device {resources.device} --config {params.config:q} 2>&1 | tee {log}"


rule evaluate_likelihood:
    input:
        model=lambda wildcards: model_weights(wildcards.model),
        initial=lambda wildcards: initial_weights(wildcards.model),
        tokens=lambda wildcards: tokens_of(SETTINGS["models"][wildcards.model]["tokenizer"], [wildcards.dataset]),
        selection=RESULTS / "structures/{dataset}/selection.parquet",
    output:
        metrics=RESULTS / "evaluation/{model}/likelihood/{dataset}/metrics.parquet",
        summary=report(
            RESULTS / "evaluation/{model}/likelihood/{dataset}/summary.csv",
            caption="captions/likelihood.rst",
            category="Metrics",
            subcategory="likelihood",
            labels={"model": "{model}", "dataset": "{dataset}"},
        ),
        run=RESULTS / "evaluation/{model}/likelihood/{dataset}/run.json",
    log:
        LOGS / "evaluation/{model}-likelihood-{dataset}.log",
    benchmark:
        TIMINGS / "evaluation/{model}-likelihood-{dataset}.tsv"
    conda:
        "../envs/dplm2.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        mem_mb=4000,
        runtime=240,
        gpu=GPUS,
    params:
        config=lambda wildcards: evaluation_config(
            "min_length", "max_length", "excluded", "bootstrap_samples", "batch_size"
        ),
        model=lambda wildcards: model_folder(wildcards.model),
        initial=lambda wildcards, input: f"--initial {Path(input.initial).parent}" if input.initial else "",
        tokens=lambda wildcards: token_folders(SETTINGS["models"][wildcards.model]["tokenizer"], [wildcards.dataset]),
        split=lambda wildcards: split_option(wildcards.dataset, SETTINGS["models"][wildcards.model].get("datasets", [])),
        folder=subpath(output.metrics, parent=True),
    shell:
        "python -m dplm2 evaluate likelihood --model {params.model} {params.initial} --tokens {params.tokens:q}"
        " --selection {input.selection} {params.split} --name {wildcards.model} --out {params.folder} --device {resources.device}"
        " --config {params.config:q} 2>&1 | tee {log}"


rule evaluate_samples:
    input:
        samples=rules.generate.output.samples,
        model=lambda wildcards: model_weights(wildcards.model),
        chains=lambda wildcards: chains([task_dataset(wildcards.task)]) if needs_natives(wildcards.task) else [],
    output:
        metrics=RESULTS / "evaluation/{model}/{task}/metrics.parquet",
        summary=report(
            RESULTS / "evaluation/{model}/{task}/summary.csv",
            caption="captions/samples.rst",
            category="Metrics",
            subcategory="samples",
            labels={"model": "{model}", "task": "{task}"},
        ),
        run=RESULTS / "evaluation/{model}/{task}/run.json",
    log:
        LOGS / "evaluation/{model}-{task}.log",
    benchmark:
        TIMINGS / "evaluation/{model}-{task}.tsv"
    conda:
        "../envs/evaluation.yaml"
    threads: THREADS
    resources:
        device=DEVICE,
        state=str(STATE),
        mem_mb=4000,
        runtime=1440,
        gpu=GPUS,
    params:
        config=lambda wildcards: evaluation_config(),
        kind=lambda wildcards: SETTINGS["generation"][wildcards.task]["task"],
        model=lambda wildcards: model_folder(wildcards.model),
        chains=lambda wildcards: (
            f"--chains {RESULTS / 'structures' / task_dataset(wildcards.task)}"
            if needs_natives(wildcards.task)
            else ""
        ),
        samples=subpath(input.samples, parent=True),
        folder=subpath(output.metrics, parent=True),
    shell:
        "python -m dplm2 evaluate {params.kind} --samples {params.samples} --model {params.model} {params.chains}"
        " --out {params.folder} --state {resources.state} --device {resources.device} --config {params.config:q} 2>&1 | tee {log}"
