# The tables, the figures and the HTML page.


rule report:
    input:
        evaluations=all_evaluations(),
    output:
        page=RESULTS / "report/report.html",
        summary=RESULTS / "report/tables/summary.csv",
    log:
        LOGS / "report.log",
    benchmark:
        TIMINGS / "report.tsv"
    conda:
        "../envs/dplm2.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=lambda wildcards: json.dumps({"report": SETTINGS["report"]}, sort_keys=True),
        results=RESULTS,
        folder=subpath(output.page, parent=True),
    shell:
        "python -m dplm2 report --results {params.results} --out {params.folder} --config {params.config:q} 2>&1 | tee {log}"


rule compare_with_published:
    input:
        summaries=all_evaluations(),
    output:
        table=RESULTS / "report/published/comparison.csv",
        parquet=RESULTS / "report/published/comparison.parquet",
    log:
        LOGS / "published.log",
    benchmark:
        TIMINGS / "published.tsv"
    conda:
        "../envs/dplm2.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        folder=subpath(output.table, parent=True),
        model=SETTINGS["report"]["published_model"],
    shell:
        "python -m dplm2 evaluate compare {input.summaries:q} --model {params.model:q} --out {params.folder} 2>&1 | tee {log}"
