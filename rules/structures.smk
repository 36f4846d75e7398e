# Structure files to clean chains. The files of a dataset are listed in manifests, one a shard; a shard's job depends on its
# own manifest, which is rewritten only if it changed.


rule clean_structures:
    input:
        manifest=STATE / "manifests/{dataset}/part-{shard}.tsv",
    output:
        chains=RESULTS / "structures/{dataset}/part-{shard}.parquet",
        rejected=RESULTS / "structures/{dataset}/shards/rejected-{shard}.parquet",
    log:
        LOGS / "structures/{dataset}-{shard}.log",
    benchmark:
        TIMINGS / "structures/{dataset}-{shard}.tsv"
    conda:
        "../envs/dplm2.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        config=lambda wildcards: stage_config("datasets", wildcards.dataset, cleaning_section(wildcards.dataset)),
        folder=subpath(output.chains, parent=True),
    shell:
        "python -m dplm2 structures clean --manifest {input.manifest} --workers {threads} --out {params.folder}"
        " --config {params.config:q} --name {wildcards.dataset} 2>&1 | tee {log}"


rule select_structures:
    input:
        chains=lambda wildcards: expand(
            rules.clean_structures.output.chains, dataset=wildcards.dataset, shard=SHARDS[wildcards.dataset]
        ),
        rejected=lambda wildcards: expand(
            rules.clean_structures.output.rejected, dataset=wildcards.dataset, shard=SHARDS[wildcards.dataset]
        ),
    output:
        selection=RESULTS / "structures/{dataset}/selection.parquet",
        rejected=RESULTS / "structures/{dataset}/rejected.parquet",
        run=RESULTS / "structures/{dataset}/run.json",
    log:
        LOGS / "structures/{dataset}-select.log",
    benchmark:
        TIMINGS / "structures/{dataset}-select.tsv"
    conda:
        "../envs/dplm2.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        config=lambda wildcards: stage_config(
            "datasets", wildcards.dataset, without(SETTINGS["datasets"][wildcards.dataset], "shards")
        ),
        shards=lambda wildcards: len(SHARDS[wildcards.dataset]),
        folder=subpath(output.selection, parent=True),
    shell:
        "python -m dplm2 structures select {params.folder} --shards {params.shards} --config {params.config:q} --name {wildcards.dataset} 2>&1 | tee {log}"
