# Samples: each task of the configuration, for each model.


rule generate:
    input:
        model=lambda wildcards: weights("models", wildcards.model),
        chains=lambda wildcards: chains(PLAN.task_datasets(wildcards.task)),
    output:
        samples=RESULTS / "samples/{model}/{task}/samples.parquet",
        table=RESULTS / "samples/{model}/{task}/designs.csv",
        fasta=RESULTS / "samples/{model}/{task}/designs.fasta",
        structures=directory(RESULTS / "samples/{model}/{task}/structures"),
        run=RESULTS / "samples/{model}/{task}/run.json",
    log:
        LOGS / "samples/{model}-{task}.log",
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("generate", "model"),
    params:
        within=this_package,
        decides=decides("generate", "task"),
        files=files("generate", "task"),
        pretrained=lambda wildcards: PLAN.pretrained("models", wildcards.model),
        operates=operates("generate", "task"),
        note=note("generate", "task", finished="models"),
        kind=lambda wildcards, threads: SETTINGS.generation[wildcards.task].task,
        model=lambda wildcards, input: folder("models", wildcards.model),
        chains=lambda wildcards, input: option("--chains", map(LAYOUT.structures, PLAN.task_datasets(wildcards.task))),
        out=subpath(output.samples, parent=True),
        state=lambda wildcards, threads: LAYOUT.state / "samples",
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} generate {params.kind} --model {params.model:q} --model-name {wildcards.model}"
        " {params.chains} --out {params.out:q} --state {params.state:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.task}"
