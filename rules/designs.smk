# The designs of each task, ranked by their metrics, and the best of them as files.


rule rank_designs:
    input:
        samples=rules.generate.output.samples,
        structures=rules.generate.output.structures,
        metrics=rules.evaluate_samples.output.metrics,
        evaluation=rules.evaluate_samples.output.run,
    output:
        table=report(
            RESULTS / "designs/{model}/{task}/designs.csv",
            caption="captions/designs.rst",
            category="Designs",
            labels={"model": "{model}", "task": "{task}"},
        ),
        fasta=RESULTS / "designs/{model}/{task}/designs.fasta",
        best=directory(RESULTS / "designs/{model}/{task}/best"),
        run=RESULTS / "designs/{model}/{task}/run.json",
    log:
        LOGS / "designs/{model}-{task}.log",
    conda:
        "../envs/dplm2.yaml"
    resources:
        **requested("rank_designs"),
    params:
        within=this_package,
        decides=decides("rank_designs"),
        samples=subpath(input.samples, parent=True),
        evaluation=subpath(input.metrics, parent=True),
        out=subpath(output.table, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} rank --samples {params.samples:q} --evaluation {params.evaluation:q}"
        " --out {params.out:q} --config {params.decides:q}"
