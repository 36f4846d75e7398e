# The tables, the figures and the HTML page; also what `snakemake --report FILE.html` shows, with the run's statistics.


report: "captions/workflow.rst"


rule report:
    input:
        evaluations=all_evaluations(),
    output:
        page=report(
            RESULTS / "report/report.html",
            caption="captions/page.rst",
            category="Report",
            labels={"what": "all tables, figures and structures"},
        ),
        tables=report(
            directory(RESULTS / "report/tables"),
            patterns=["{table}.csv"],
            caption="captions/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory(RESULTS / "report/figures"),
            patterns=["{figure}.svg"],
            caption="captions/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
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
        table=report(
            RESULTS / "report/published/comparison.csv",
            caption="captions/published.rst",
            category="Tables",
            labels={"table": "beside the published figures"},
        ),
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
        model=published_models(),
    shell:
        "python -m dplm2 evaluate compare {input.summaries:q} --model {params.model:q} --out {params.folder} 2>&1 | tee {log}"
