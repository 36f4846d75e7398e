# Structure files to clean chains. The files of a dataset are listed in manifests, one a shard; a shard's job depends on its own
# manifest, which is rewritten only if it changed.


def shard_manifests(dataset):
    folder = STATE / "manifests" / dataset
    if not workflow.is_main_process:  # a job of this run: the manifests are there
        return sorted(folder.glob("part-*.tsv"))
    section = SETTINGS["datasets"][dataset]
    try:
        return update_manifest(section["files"], folder, section["shards"])
    except DPLM2Error as error:
        raise WorkflowError(f"datasets.{dataset}.files: {error}") from None


SHARDS = {
    dataset: [Path(manifest).stem.removeprefix("part-") for manifest in shard_manifests(dataset)]
    for dataset in DATASETS
}


def chains(datasets):
    """The chains of datasets and the selections that say which of them stay."""
    parts = [
        RESULTS / f"structures/{dataset}/part-{shard}.parquet" for dataset in datasets for shard in SHARDS[dataset]
    ]
    return parts + selections(datasets)


def selections(datasets):
    return [RESULTS / f"structures/{dataset}/selection.parquet" for dataset in datasets]


def structure_folders(datasets):
    return [str(RESULTS / "structures" / dataset) for dataset in datasets]


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
    threads: 2
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        config=lambda wildcards: stage_config(
            "datasets",
            wildcards.dataset,
            without(SETTINGS["datasets"][wildcards.dataset], "shards", "split", "clusters"),
        ),
        folder=subpath(output.chains, parent=True),
    shell:
        "python -m dplm2 structures clean --manifest {input.manifest} --out {params.folder}"
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
        folder=subpath(output.selection, parent=True),
    shell:
        "python -m dplm2 structures select {params.folder} --config {params.config:q} --name {wildcards.dataset} 2>&1 | tee {log}"
