#!/usr/bin/env bash
# Writes charts/somaagent/README.md from the comments of values.yaml; with --check only says whether
# it is current.
set -euo pipefail
cd "$(dirname "$0")/../charts/somaagent"

# A comment that touches a key is that key's; an empty line ends what a comment is about.
rows() {
  awk '
    function cell(text) { gsub(/\|/, "\\|", text); return text }
    /^ *#/ { line = $0; sub(/^ *# ?/, "", line); about = about (about == "" ? "" : " ") line; next }
    /^ *[A-Za-z]+:/ {
      match($0, /[^ ]/); depth = (RSTART - 1) / 2
      name = $1; sub(/:$/, "", name); path[depth] = name
      value = $0; sub(/^ *[A-Za-z]+: */, "", value)
      full = path[0]; for (level = 1; level <= depth; level++) full = full "." path[level]
      if (value != "" || about != "")
        printf "| `%s` | %s | %s |\n", full, (value == "" ? "" : "`" cell(value) "`"), cell(about)
    }
    { about = "" }
  ' values.yaml
}

page() {
  cat <<'HEAD'
# somaagent

The Helm chart of SomaAgent01. How to install, upgrade and roll back: [docs/INSTALL.md](../../docs/INSTALL.md).
Made by `make chart-docs`; a test fails if it is not current.

| file | for |
| --- | --- |
| `values.yaml` | the defaults: `prod`, which needs servers |
| `values-dev.yaml` | one replica on the embedded engines |
| `values-prod.yaml` | replicas on PostgreSQL, Kafka, Redis and OPA |
| `values-roles.yaml` | on top of it: a Deployment for each role |
| `values-opa.yaml` | on top of it: an OPA beside each pod |
| `values-multi-region.yaml` | on top of it: one region of several |
| `rules/somaagent.yaml` | alerts, for Prometheus and the operator's PrometheusRule |

## Values

| value | default | meaning |
| --- | --- | --- |
HEAD
  rows
}

if [ "${1:-}" = --check ]; then
  page | diff -u README.md - || { echo "charts/somaagent/README.md is not current: run make chart-docs" >&2; exit 1; }
else
  page > README.md
fi
