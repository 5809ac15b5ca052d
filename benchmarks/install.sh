#!/usr/bin/env bash
# Installs the wheel into empty environments, and prints size, time to the first observation, and what missing extras say.
# Usage: benchmarks/install.sh [EXTRA ...]   (default: none, dense, server; needs PyPI; `train` and `all` are gigabytes)
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
git ls-files -z | xargs -0 cp --parents -t "$work/build"
"$work/build/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" "$work/build"
wheel=$(echo "$work"/igsearch-*.whl)
printf '{"id": "1", "contents": "\\"Paris\\"\\nParis is the capital of France."}\n' > "$work/corpus.jsonl"
for extra in "${@:-none dense server}"; do
  for name in $extra; do
    environment="$work/$name"
    python3 -m venv "$environment"
    if [ "$name" = none ]; then requirement="$wheel"; else requirement="$wheel[$name]"; fi
    "$environment/bin/pip" install --quiet "$requirement"
    echo "== igsearch[$name]: $(du -sm "$environment" | cut -f1) MB"
    cd "$work"
    "$environment/bin/python" - << 'PYTHON'
import time

import gymnasium
import igsearch_env

env = gymnasium.make("IGSearch-v0")
env.reset(seed=5)
print(f"first observation after {time.process_time():.2f} s of processor time")
_, reward, *_ = env.step("<search> Tondelle Saimov born </search>")
assert reward > 1
PYTHON
    for command in "--help" "train --help" "evaluate --policy search-question --limit 1" "train ig_grpo --steps 1" \
      "index --corpus corpus.jsonl --output $name.index --encoder nowhere" "serve --corpus nowhere.jsonl"; do
      echo "-- igsearch $command"
      # shellcheck disable=SC2086
      "$environment/bin/igsearch" $command 2>&1 | tail -n 1 || true
    done
    echo "-- import algorithms.ig_grpo"
    "$environment/bin/python" -c "import algorithms.ig_grpo" 2>&1 | tail -n 1 || true
    cd - > /dev/null
  done
done
