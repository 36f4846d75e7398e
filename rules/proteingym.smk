# ProteinGym's assays of mutations, scored by each model.

GYMS = list(SETTINGS.proteingym)


wildcard_constraints:
    gym="[A-Za-z0-9][A-Za-z0-9._-]*",


rule score_proteingym:
    input:
        model=lambda wildcards: weights("models", wildcards.model),
    output:
        summary=report(
            RESULTS / "proteingym/{model}/{gym}/summary.csv",
            caption="captions/proteingym.rst",
            category="Metrics",
            subcategory="ProteinGym",
            labels={"model": "{model}", "assays": "{gym}"},
        ),
        run=RESULTS / "proteingym/{model}/{gym}/run.json",
    log:
        LOGS / "proteingym/{model}-{gym}.log",
    conda:
        "../envs/dplm2.yaml"
    threads: SETTINGS.threads
    resources:
        **requested("score_proteingym", "model"),
    params:
        within=this_package,
        decides=decides("score_proteingym", "gym"),
        files=files("score_proteingym", "gym"),
        pretrained=lambda wildcards: PLAN.pretrained("models", wildcards.model),
        note=note("score_proteingym", "gym", finished="models"),
        reference=lambda wildcards, input: SETTINGS.proteingym[wildcards.gym].reference,
        assays=lambda wildcards, input: SETTINGS.proteingym[wildcards.gym].assays_folder,
        structures=lambda wildcards, input: option(
            "--structures", filter(None, [SETTINGS.proteingym[wildcards.gym].structures])
        ),
        chosen=lambda wildcards, threads: shlex.join(SETTINGS.proteingym[wildcards.gym].arguments()),
        device=lambda wildcards, threads: SETTINGS.device,
        model=lambda wildcards, input: folder("models", wildcards.model),
        out=subpath(output.summary, parent=True),
    shell:
        "{params.within} python -m dplm2 --log {log:q} {params.note} score proteingym --reference {params.reference:q}"
        " --assays-folder {params.assays:q} {params.structures} --model {params.model:q} --out {params.out:q}"
        " {params.chosen} --device {params.device}"
