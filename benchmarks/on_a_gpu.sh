#!/bin/sh
# Everything that is to be measured on a GPU, one after the other on an otherwise idle machine, and the tests there:
#
#     sh benchmarks/on_a_gpu.sh FOLDER
#
# Results come as JSON files, the tests' outcome as tests.log. What compiles comes last, since that takes long; what was
# done before a time limit stays.
set -u
out=${1:?which folder for the results?}
mkdir -p "$out"
run() {
    name=$1
    shift
    if "${PYTHON:-python}" "$@" > "$out/$name.log" 2>&1; then echo "$name: done"; else echo "$name: failed, see $out/$name.log"; fi
}
steps="benchmarks/train_step.py --device cuda --precision bf16 --chains 32 --residues 256 --repetitions 10"
run train_step-650M $steps --size 650M --mode full --out "$out/train_step-650M.json"
run train_step-150M $steps --size 150M --mode full lora --out "$out/train_step-150M.json"
run tests -m pytest -q tests/test_gpu.py
run tokenizer benchmarks/tokenizer.py --device cuda --at-once 1 32 --decode-lengths 100 300 500 --out "$out/tokenizer.json"
run generate benchmarks/generate.py --throughput --size 650M --device cuda --precision bfloat16 --ways eager \
    --smallest-batch 8 --repetitions 3 --out "$out/generate.json"
run train_step-650M-compiled $steps --size 650M --mode full --compile --out "$out/train_step-650M-compiled.json"
run train_step-150M-compiled $steps --size 150M --mode full --compile --out "$out/train_step-150M-compiled.json"
run tokenizer-compiled benchmarks/tokenizer.py --device cuda --compile --precision float32 --at-once 1 32 \
    --encode-lengths --decode-lengths 100 300 500 --out "$out/tokenizer-compiled.json"
