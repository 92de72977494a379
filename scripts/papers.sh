#!/usr/bin/env bash
# Writes what goes with an executable to target/papers: its bill of materials (CycloneDX), and the
# licence notices of what is compiled into it.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(scripts/tools.sh cargo-cyclonedx)
papers=target/papers
mkdir -p "$papers"

# The same sources give the same papers: neither now nor here is in them.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
"$tools/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --describe binaries \
  --target all --no-build-deps
sed "s#file://$PWD#file://.#g" somaagent_bin.cdx.json > "$papers/somaagent.cdx.json"
rm somaagent_bin.cdx.json

docker/notices.sh > "$papers/NOTICES.txt"
echo "$papers/somaagent.cdx.json"
echo "$papers/NOTICES.txt"
