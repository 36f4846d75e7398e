# What can be predicted from the models' representations, and the paper's table beside it.

PREDICTIONS = list(SETTINGS.representations)
OF_THE_NINE = [name for name in PREDICTIONS if SETTINGS.representations[name].is_of_the_nine]


wildcard_constraints:
    prediction="[A-Za-z0-9][A-Za-z0-9._-]*",


rule probe_representations:
    input:
        model=lambda wildcards: weights("models", wildcards.model),
    output:
        predictions=RESULTS / "representations/{model}/{prediction}/predictions.csv",
        summary=report(
            RESULTS / "representations/{model}/{prediction}/summary.csv",
            caption="captions/representations.rst",
            category="Metrics",
            subcategory="representations",
            labels={"model": "{model}", "task": "{prediction}"},
        ),
        run=RESULTS / "representations/{model}/{prediction}/run.json",
    log:
        LOGS / "representations/{model}-{prediction}.log",
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("probe_representations", "model"),
    params:
        within=this_package,
        decides=decides("probe_representations", "prediction"),
        files=files("probe_representations", "prediction"),
        pretrained=lambda wildcards: PLAN.pretrained("models", wildcards.model),
        note=note("probe_representations", "prediction", finished="models"),
        data=lambda wildcards, input: SETTINGS.representations[wildcards.prediction].data,
        structures=lambda wildcards, input: option(
            "--structures", filter(None, [SETTINGS.representations[wildcards.prediction].structures])
        ),
        chosen=lambda wildcards, threads: " ".join(SETTINGS.representations[wildcards.prediction].arguments()),
        device=lambda wildcards, threads: SETTINGS.device,
        model=lambda wildcards, input: folder("models", wildcards.model),
        out=subpath(output.summary, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} probe {params.data:q} {params.structures} --model {params.model:q}"
        " --model-name {wildcards.model} --out {params.out:q} {params.chosen} --device {params.device}"


rule compare_representations:
    input:
        made(rules.probe_representations, model=MODELS, prediction=OF_THE_NINE),
    output:
        table=report(
            RESULTS / "representations/comparison/table.csv",
            caption="captions/representations.rst",
            category="Tables",
            labels={"table": "representations"},
        ),
        results=RESULTS / "representations/comparison/results.csv",
        run=RESULTS / "representations/comparison/run.json",
    log:
        LOGS / "representations/comparison.log",
    conda:
        "../envs/dplm2.yaml"
    resources:
        **requested("compare_representations"),
    params:
        within=this_package,
        probes=[LAYOUT.probe(model, task) for model in MODELS for task in OF_THE_NINE],
        out=subpath(output.table, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} compare-probes {params.probes:q} --out {params.out:q}"
