# Structure files to clean chains. The files of a dataset are listed in manifests, one a shard; a shard's job depends on its
# own manifest, which is rewritten only if it changed. Where files are fetched by a list, the list is cut into shards in the
# same way, and a shard's manifest says what came. The files themselves are no output: a failed job would delete them.


rule fetch_structures:
    input:
        list=STATE / "manifests/{dataset}/list-{shard}.txt",
    output:
        manifest=RESULTS / "downloads/{dataset}/part-{shard}.tsv",
    log:
        LOGS / "structures/{dataset}-{shard}-fetch.log",
    benchmark:
        TIMINGS / "structures/{dataset}-{shard}-fetch.tsv"
    localrule: True
    conda:
        "../envs/dplm2.yaml"
    threads: 1
    resources:
        patience=lambda wildcards: patience(wildcards.dataset),
        mem_mb=2000,
        runtime=1440,
    params:
        pdb=lambda wildcards: SETTINGS["datasets"][wildcards.dataset]["fetch"]["pdb_address"],
        alphafold=lambda wildcards: SETTINGS["datasets"][wildcards.dataset]["fetch"]["alphafold_address"],
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m dplm2 structures fetch {input.list} --out {params.folder}/files --manifest {output.manifest}"
        " --pdb-address {params.pdb:q} --alphafold-address {params.alphafold:q} {resources.patience} 2>&1 | tee {log}"


rule clean_structures:
    input:
        manifest=lambda wildcards: shard_manifest(wildcards.dataset, wildcards.shard),
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
        config=lambda wildcards: stage_config("datasets", wildcards.dataset, selection_section(wildcards.dataset)),
        shards=lambda wildcards: len(SHARDS[wildcards.dataset]),
        folder=subpath(output.selection, parent=True),
    shell:
        "python -m dplm2 structures select {params.folder} --shards {params.shards} --config {params.config:q} --name {wildcards.dataset} 2>&1 | tee {log}"
