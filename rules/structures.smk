# Structure files to clean chains, shard by shard. Files are assigned to shards when the workflow is read, without
# reading them; a shard's job is repeated only if one of its files changed. Downloads are not declared as output: a
# failed job would delete them.


rule fetch_structures:
    output:
        manifest=RESULTS / "downloads/{dataset}/part-{shard}.tsv",
    log:
        LOGS / "structures/{dataset}-{shard}-fetch.log",
    localrule: True
    conda:
        "../envs/dplm2.yaml"
    threads: 1
    resources:
        **requested("fetch_structures"),
    params:
        within=this_package,
        decides=decides("fetch_structures", "dataset"),
        listed=lambda wildcards: PLAN.listings[wildcards.dataset].identity(int(wildcards.shard)),
        operates=operates("fetch_structures", "dataset"),
        list=lambda wildcards, threads: str(PLAN.listings[wildcards.dataset].path(int(wildcards.shard))),
        out=lambda wildcards, threads: str(LAYOUT.downloads(wildcards.dataset) / "files"),
    shell:
        "{params.within} python -m dplm2 --log {log:q} structures fetch {params.list:q} --out {params.out:q} --manifest {output.manifest:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.dataset}"


rule clean_structures:
    input:
        lambda wildcards: ([] if SETTINGS.datasets[wildcards.dataset].files else rules.fetch_structures.output.manifest),
    output:
        chains=RESULTS / "structures/{dataset}/part-{shard}.parquet",
        rejected=RESULTS / "structures/{dataset}/shards/rejected-{shard}.parquet",
    log:
        LOGS / "structures/{dataset}-{shard}.log",
    group:
        grouped("clean")
    localrule: IN_A_JOB
    conda:
        "../envs/dplm2.yaml"
    threads: 1
    resources:
        **requested("clean_structures"),
        shards=1,
    params:
        within=this_package,
        decides=decides("clean_structures", "dataset"),
        listed=lambda wildcards: (
            PLAN.listings[wildcards.dataset].identity(int(wildcards.shard))
            if SETTINGS.datasets[wildcards.dataset].files
            else "as fetched"
        ),
        operates=operates("clean_structures", "dataset"),
        manifest=lambda wildcards, input: (
            input[0] if input else str(PLAN.listings[wildcards.dataset].path(int(wildcards.shard)))
        ),
        out=subpath(output.chains, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} structures clean --manifest {params.manifest:q} --workers {threads} --out {params.out:q}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.dataset}"


rule select_structures:
    input:
        chains=lambda wildcards: LAYOUT.parts(LAYOUT.structures(wildcards.dataset), PLAN.shards[wildcards.dataset]),
        rejected=lambda wildcards: expand(
            rules.clean_structures.output.rejected,
            dataset=wildcards.dataset,
            shard=SHARDS[wildcards.dataset],
        ),
    output:
        selection=RESULTS / "structures/{dataset}/selection.parquet",
        rejected=RESULTS / "structures/{dataset}/rejected.parquet",
        run=RESULTS / "structures/{dataset}/run.json",
    log:
        LOGS / "structures/{dataset}-select.log",
    conda:
        "../envs/mmseqs2.yaml"
    threads: 2
    resources:
        **requested("select_structures"),
    params:
        within=this_package,
        decides=decides("select_structures", "dataset"),
        files=files("select_structures", "dataset"),
        operates=operates("select_structures", "dataset"),
        note=note("select_structures", "dataset"),
        shards=lambda wildcards, threads: PLAN.shards[wildcards.dataset],
        out=subpath(output.selection, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} structures select {params.out:q} --shards {params.shards} --workers {threads}"
        " --config {params.decides:q} {params.operates:q} --name {wildcards.dataset}"
