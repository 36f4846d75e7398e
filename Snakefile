# From protein structures to trained models, designed proteins and benchmark tables.
#
#   snakemake --cores 2                               the demo: config.yaml
#   snakemake --cores 2 --configfile my.yaml          your own configuration, instead of config.yaml
#   snakemake --cores 2 --config seed=1               config.yaml with one key changed
#   snakemake tokens --cores 2                        only as far as the tokens (targets come first)
#   snakemake representations --cores 8 --configfile config/representations.yaml      the paper's table of predictive tasks
#   snakemake benchmark --cores 8 --configfile config/benchmark.yaml      the paper's tables, next to the published ones
from snakemake.utils import min_version

min_version("9.0")

if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/structures.smk"
include: "rules/tokenizer.smk"
include: "rules/tokens.smk"
include: "rules/warmup.smk"
include: "rules/training.smk"
include: "rules/generation.smk"
include: "rules/evaluation.smk"
include: "rules/designs.smk"
include: "rules/representations.smk"
include: "rules/proteingym.smk"
include: "rules/report.smk"


resource_scopes:
    shards="local",


localrules:
    all,
    structures,
    tokenizers,
    tokens,
    models,
    samples,
    evaluation,
    designs,
    representations,
    proteingym,
    benchmark,


rule structures:
    input:
        [
            made(rules.fetch_structures, dataset=name, shard=SHARDS[name])
            for name in DATASETS
            if SETTINGS.datasets[name].fetch
        ],
        [made(rules.clean_structures, dataset=name, shard=SHARDS[name]) for name in DATASETS],
        made(rules.select_structures, dataset=DATASETS),


rule tokenizers:
    input:
        made(rules.train_tokenizer, tokenizer=PLAN.trained("tokenizers")),


rule tokens:
    input:
        sorted({part for model in SETTINGS.models.values() for part in tokens(model.tokenizer, model.datasets)}),


rule models:
    input:
        made(rules.warm_up_model, model=PLAN.trained("models")),
        made(rules.train_model, model=PLAN.trained("models")),


rule samples:
    input:
        rules.report.input.samples,


rule evaluation:
    input:
        rules.report.input.reconstruction,
        rules.report.input.likelihood,
        rules.report.input.metrics,


rule designs:
    input:
        rules.report.input.designs,


rule representations:
    input:
        made(rules.probe_representations, model=MODELS, prediction=PREDICTIONS),
        made(rules.compare_representations) if OF_THE_NINE else [],


rule proteingym:
    input:
        made(rules.score_proteingym, model=MODELS, gym=GYMS),


rule benchmark:
    input:
        rules.report.output,


rule all:
    default_target: True
    input:
        rules.structures.input,
        rules.tokenizers.input,
        rules.tokens.input,
        rules.models.input,
        rules.samples.input,
        rules.evaluation.input,
        rules.designs.input,
        rules.representations.input,
        rules.proteingym.input,
        rules.benchmark.input,
