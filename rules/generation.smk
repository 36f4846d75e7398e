# Samples: each task of the configuration, for each model.


rule generate:
    input:
        model=lambda wildcards: model_weights(wildcards.model),
        chains=lambda wildcards: chains([task_dataset(wildcards.task)]) if task_dataset(wildcards.task) else [],
        problems=lambda wildcards: task_problems(wildcards.task),
    output:
        samples=RESULTS / "samples/{model}/{task}/samples.parquet",
        run=RESULTS / "samples/{model}/{task}/run.json",
    log:
        LOGS / "samples/{model}-{task}.log",
    benchmark:
        TIMINGS / "samples/{model}-{task}.tsv"
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
        config=lambda wildcards: stage_config("generation", wildcards.task),
        kind=lambda wildcards: SETTINGS["generation"][wildcards.task]["task"],
        model=lambda wildcards: model_folder(wildcards.model),
        chains=lambda wildcards: (
            f"--chains {RESULTS / 'structures' / task_dataset(wildcards.task)}" if task_dataset(wildcards.task) else ""
        ),
        folder=subpath(output.samples, parent=True),
    shell:
        "python -m dplm2 generate {params.kind} --model {params.model} {params.chains} --out {params.folder}"
        " --state {resources.state}/samples --device {resources.device}"
        " --config {params.config:q} --name {wildcards.task} 2>&1 | tee {log}"
