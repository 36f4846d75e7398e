# From protein structures to trained models, designed proteins and benchmark tables.
#
#   snakemake --cores 2                               the demo: config.yaml
#   snakemake --cores 2 --configfile my.yaml          your own configuration, instead of config.yaml
#   snakemake --cores 2 --config seed=1               config.yaml with one key changed
#   snakemake tokens --cores 2                        only as far as the tokens (targets come first)
#   snakemake benchmark --cores 8 --configfile config/benchmark.yaml      the paper's tables, beside the published ones
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
include: "rules/report.smk"


localrules:
    all,
    structures,
    tokenizers,
    tokens,
    models,
    samples,
    evaluation,
    benchmark,


rule all:
    default_target: True
    input:
        rules.report.output.page,


rule structures:
    input:
        selections(DATASETS),


rule tokenizers:
    input:
        [weights("tokenizers", name) for name in TOKENIZERS],


rule tokens:
    input:
        [tokens(model.tokenizer, model.datasets) for model in SETTINGS.models.values()],


rule models:
    input:
        [weights("models", name) for name in MODELS],


rule samples:
    input:
        all_samples(),


rule evaluation:
    input:
        all_evaluations(),


rule benchmark:
    input:
        rules.report.output.page,
