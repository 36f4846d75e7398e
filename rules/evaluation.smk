# Evaluation of tokenizers, models and samples.


rule evaluate_tokenizer:
    input:
        tokenizer=lambda wildcards: weights("tokenizers", wildcards.tokenizer),
        chains=lambda wildcards: chains([wildcards.dataset]),
        tokens=lambda wildcards: (
            tokens(wildcards.tokenizer, [wildcards.dataset]) if wildcards.variant == "trained" else []
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
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("evaluate_tokenizer", "tokenizer"),
    params:
        within=this_package,
        decides=decides("evaluate_tokenizer"),
        pretrained=lambda wildcards: PLAN.pretrained("tokenizers", wildcards.tokenizer),
        split=lambda wildcards: option(
            "--split", ["train"] if wildcards.dataset in SETTINGS.tokenizers[wildcards.tokenizer].datasets else []
        ),
        operates=operates("evaluate_tokenizer"),
        note=note("evaluate_tokenizer", finished="tokenizers"),
        tokenizer=lambda wildcards, input: folder("tokenizers", wildcards.tokenizer),
        chains=lambda wildcards, input: LAYOUT.structures(wildcards.dataset),
        tokens=lambda wildcards, input: (
            option("--tokens", [LAYOUT.tokens(wildcards.tokenizer, wildcards.dataset)])
            if input.tokens
            else "--untrained"
        ),
        out=subpath(output.metrics, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} evaluate reconstruction --tokenizer {params.tokenizer:q} --chains {params.chains:q}"
        " {params.split} {params.tokens} --name {wildcards.tokenizer} --out {params.out:q}"
        " --config {params.decides:q} {params.operates:q}"


rule evaluate_likelihood:
    input:
        model=lambda wildcards: weights("models", wildcards.model),
        initial=lambda wildcards: (
            []
            if SETTINGS.models[wildcards.model].pretrained
            else RESULTS / "models" / wildcards.model / "initial/model.safetensors"
        ),
        tokens=lambda wildcards: tokens(SETTINGS.models[wildcards.model].tokenizer, [wildcards.dataset]),
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
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("evaluate_likelihood", "model"),
    params:
        within=this_package,
        decides=decides("evaluate_likelihood"),
        pretrained=lambda wildcards: PLAN.pretrained("models", wildcards.model),
        split=lambda wildcards: option(
            "--split", ["train"] if wildcards.dataset in SETTINGS.models[wildcards.model].datasets else []
        ),
        operates=operates("evaluate_likelihood"),
        note=note("evaluate_likelihood", finished="models"),
        model=lambda wildcards, input: folder("models", wildcards.model),
        initial=lambda wildcards, input: option("--initial", folders_of(input.initial)),
        tokens=lambda wildcards, input: LAYOUT.tokens(SETTINGS.models[wildcards.model].tokenizer, wildcards.dataset),
        out=subpath(output.metrics, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} evaluate likelihood --model {params.model:q} {params.initial} --tokens {params.tokens:q}"
        " --selection {input.selection:q} {params.split} --name {wildcards.model} --out {params.out:q}"
        " --config {params.decides:q} {params.operates:q}"


rule evaluate_samples:
    input:
        samples=rules.generate.output.samples,
        model=lambda wildcards: weights("models", wildcards.model) if PLAN.model_judges(wildcards.task) else [],
        chains=lambda wildcards: chains(PLAN.task_datasets(wildcards.task, natives=True)),
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
    conda:
        "../envs/evaluation.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("evaluate_samples", "model"),
    params:
        within=this_package,
        decides=lambda wildcards: PLAN.deciding("evaluate_samples", task=SETTINGS.generation[wildcards.task].task),
        files=lambda wildcards: PLAN.inputs("evaluate_samples", task=SETTINGS.generation[wildcards.task].task),
        pretrained=lambda wildcards: (
            PLAN.pretrained("models", wildcards.model) if PLAN.model_judges(wildcards.task) else ""
        ),
        operates=lambda wildcards, threads: PLAN.operating(
            "evaluate_samples", task=SETTINGS.generation[wildcards.task].task
        ),
        note=lambda wildcards, threads: option(
            "--note",
            PLAN.to_note(
                "evaluate_samples",
                task=SETTINGS.generation[wildcards.task].task,
                finished=("models", wildcards.model) if PLAN.model_judges(wildcards.task) else None,
            ),
        ),
        kind=lambda wildcards, threads: SETTINGS.generation[wildcards.task].task,
        model=lambda wildcards, input: folder("models", wildcards.model),
        chains=lambda wildcards, input: option(
            "--chains", map(LAYOUT.structures, PLAN.task_datasets(wildcards.task, natives=True))
        ),
        samples=subpath(input.samples, parent=True),
        out=subpath(output.metrics, parent=True),
        state=lambda wildcards, threads: LAYOUT.state,
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} evaluate {params.kind} --samples {params.samples:q} --model {params.model:q}"
        " {params.chains} --out {params.out:q} --state {params.state:q} --config {params.decides:q} {params.operates:q}"
