# The tables, the figures and the HTML page; also the content of `snakemake --report FILE.html`, with the run's
# statistics.


report: "captions/workflow.rst"


rule report:
    input:
        reconstruction=made(
            rules.evaluate_tokenizer,
            tokenizer=TOKENIZERS,
            dataset=SETTINGS.evaluation.reconstruction,
            variant=["trained", "untrained"],
        ),
        likelihood=made(rules.evaluate_likelihood, model=MODELS, dataset=SETTINGS.evaluation.likelihood),
        metrics=made(rules.evaluate_samples, model=MODELS, task=MEASURED_TASKS),
        designs=made(rules.rank_designs, model=MODELS, task=MEASURED_TASKS),
        samples=made(rules.generate, model=MODELS, task=TASKS),
        trained=[
            [RESULTS / kind / name / file for file in ("metrics.csv", "run.json")]
            for kind in ("tokenizers", "models")
            for name in PLAN.trained(kind)
        ],
        datasets=selections(DATASETS),
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
        run=RESULTS / "report/run.json",
    log:
        LOGS / "report.log",
    conda:
        "../envs/dplm2.yaml"
    resources:
        **requested("report"),
    params:
        within=this_package,
        decides=decides("report"),
        names=lambda wildcards: PLAN.names(),
        results=lambda wildcards, threads: RESULTS,
        out=subpath(output.page, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} report --results {params.results:q} --out {params.out:q} --config {params.decides:q}"
        " --only {params.names:q}"
