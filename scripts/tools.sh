#!/usr/bin/env bash
# Installs the tools that tests call, once, at pinned versions, and prints their folder. Each comes
# through the package client of its own language: Go for helm, pip for the validators of schemas,
# Cargo for what describes a release.
#
#   scripts/tools.sh            install what the tests call and is missing, then print the folder
#   scripts/tools.sh TOOL...    only these
set -euo pipefail

HELM=v3.22.0
KUBERNETES_VALIDATE=1.37.0 # brings the schemas of Kubernetes 1.37 with it
CHECK_JSONSCHEMA=0.39.0    # brings compose-spec's schema with it
CARGO_CYCLONEDX=0.5.9

home="${SOMAAGENT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/somaagent-servers}"
bin="$home/bin"

need() {
  type -P "$1" >/dev/null && return
  echo "installing $2" >&2
  # Only the program is wanted, not the service that comes with it.
  { apt-get update -q && RUNLEVEL=1 apt-get install -qy --no-install-recommends "$2"; } >&2
}

# A version is part of the file's name, so that a new pin installs anew.
helm() {
  [ -x "$bin/helm-$HELM" ] || {
    need go golang-go
    echo "building helm $HELM" >&2
    GOBIN="$bin" go install "helm.sh/helm/v3/cmd/helm@$HELM" >&2
    mv "$bin/helm" "$bin/helm-$HELM"
  }
  ln -sf "helm-$HELM" "$bin/helm"
}

python() { # NAME VERSION
  local place="$home/python/$1-$2"
  [ -x "$place/bin/$1" ] || {
    need python3 python3-venv
    echo "installing $1 $2" >&2
    rm -rf "$place"
    python3 -m venv "$place" >&2
    "$place/bin/pip" install --quiet --disable-pip-version-check "$1==$2" >&2
  }
  ln -sf "$place/bin/$1" "$bin/$1"
}

cargo() { # NAME VERSION [ARGUMENT...]
  local name=$1 version=$2
  shift 2
  [ -x "$bin/$name-$version" ] || {
    echo "building $name $version" >&2
    CARGO_TARGET_DIR="$home/build" command cargo install --locked --root "$home/cargo" \
      "$name@$version" "$@" >&2
    mv "$home/cargo/bin/$name" "$bin/$name-$version"
    rm -rf "$home/build"
  }
  ln -sf "$name-$version" "$bin/$name"
}

kubernetes-validate() { python kubernetes-validate "$KUBERNETES_VALIDATE"; }
check-jsonschema() { python check-jsonschema "$CHECK_JSONSCHEMA"; }
cargo-cyclonedx() { cargo cargo-cyclonedx "$CARGO_CYCLONEDX"; }
debian() { # PROGRAM PACKAGE
  need "$1" "$2"
  ln -sf "$(type -P "$1")" "$bin/$1"
}
haproxy() { debian haproxy haproxy; }
prometheus() { debian prometheus prometheus; }
promtool() { debian promtool prometheus; }

mkdir -p "$bin"
exec 9>"$home/tools.lock"
flock 9
[ $# -gt 0 ] || set -- helm kubernetes-validate check-jsonschema haproxy prometheus promtool
for tool in "$@"; do
  case "$tool" in
    helm | kubernetes-validate | check-jsonschema | haproxy | prometheus | promtool | cargo-cyclonedx)
      "$tool"
      ;;
    *) echo "no tool is called \`$tool\`" >&2; exit 64 ;;
  esac
done
echo "$bin"
