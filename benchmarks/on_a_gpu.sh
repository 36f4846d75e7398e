#!/bin/sh
# Everything that is to be measured on a GPU, one after the other on an otherwise idle machine, and the tests there:
#
#     sh benchmarks/on_a_gpu.sh FOLDER
#     sh benchmarks/on_a_gpu.sh FOLDER rehearsal     the same with the smallest sizes on a processor, without limits
#
# FOLDER/results.json has the results of all scripts by name, and FOLDER/log.txt what they and the tests said; both are
# written again after each, so that what was done before a time limit stays. What has never been measured comes first,
# what compiles comes last. A script that takes too long is stopped; all together stop
# after SECONDS_IN_ALL (570).
set -u
out=${1:?which folder for the results?}
python=${PYTHON:-python}
patience=1
[ "${2:-}" = rehearsal ] && patience=20
end=$(($(date +%s) + ${SECONDS_IN_ALL:-570} * patience))
mkdir -p "$out"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
: > "$out/log.txt"

run() { # name, seconds at most, script and arguments
    name=$1 limit=$(($2 * patience))
    shift 2
    left=$((end - $(date +%s)))
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 5 ]; then echo "$name: no time left"; return; fi
    echo "=== $name" >> "$out/log.txt"
    started=$(date +%s)
    if timeout "$limit" "$python" "$@" >> "$out/log.txt" 2>&1; then said=done; else said="failed or stopped, see log.txt"; fi
    echo "$name: $said, $(($(date +%s) - started)) s"
    "$python" -c 'import json, pathlib, sys
found = {path.stem: json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))}
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=2))' "$parts" "$out/results.json"
}

if [ "${2:-}" = rehearsal ]; then
    large=tiny small= lengths="20 30" batches="--smallest-batch 1 --largest-batch 2"
    steps="-m benchmarks.train_step --device cpu --precision bf16 --chains 4 --residues 16 --repetitions 1"
    generate="-m benchmarks.generate --throughput --device cpu --precision bfloat16 --repetitions 1"
    tokenizer="-m benchmarks.tokenizer --device cpu --tokenizer dplm2/assets/small_tokenizer --repetitions 1"
    agreement="-m benchmarks.agreement --device cpu --chains 2 --steps 4"
    encoded=20 decoded="20 30" at_once="1 2"
else
    large=650M small=150M lengths="100 200 300 400 500" batches="--smallest-batch 8 --largest-batch 128"
    steps="-m benchmarks.train_step --device cuda --precision bf16 --chains 32 --residues 256 --repetitions 10"
    generate="-m benchmarks.generate --throughput --device cuda --precision bfloat16 --repetitions 5"
    tokenizer="-m benchmarks.tokenizer --device cuda"
    agreement="-m benchmarks.agreement --device cuda"
    encoded=300 decoded="100 300 500" at_once="1 32"
fi
run train_step-$large 60 $steps --size $large --mode full lora --out "$parts/train_step-$large.json"
run generate-$large 90 $generate --size $large --ways eager --lengths $lengths $batches --out "$parts/generate-$large.json"
run agreement 60 $agreement --out "$parts/agreement.json"
run tests 120 -m pytest -q -p no:cacheprovider tests/test_gpu.py
run tokenizer 60 $tokenizer --encode-lengths $encoded --decode-lengths $decoded --at-once $at_once --out "$parts/tokenizer.json"
for size in $small; do
    run train_step-$size 45 $steps --size $size --mode full lora --out "$parts/train_step-$size.json"
    run generate-$size 60 $generate --size $size --ways eager --lengths $lengths $batches --out "$parts/generate-$size.json"
done
for size in $large $small; do
    run train_step-$size-compiled 90 $steps --size $size --mode full --compile --out "$parts/train_step-$size-compiled.json"
done
run generate-$large-compiled 120 $generate --size $large --ways compiled graphed --lengths ${lengths##* } $batches \
    --out "$parts/generate-$large-compiled.json"
run tokenizer-compiled 60 $tokenizer --compile --precision float32 --encode-lengths --decode-lengths $decoded \
    --at-once $at_once --out "$parts/tokenizer-compiled.json"
