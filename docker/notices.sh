#!/usr/bin/env bash
# Prints the licence notices of what is compiled into the executable: each project with its licence,
# then the texts that come with their sources, each text once. Taking the texts as they are is faster
# than comparing every file with every known licence, and leaves none out.
set -euo pipefail
cd "$(dirname "$0")/.."
sources="${CARGO_HOME:-$HOME/.cargo}/registry/src"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Build dependencies too: the C libraries that are linked in come through them.
cargo tree --locked --package somaagent --edges normal,build --prefix none \
  --format '{p}|{l}|{r}' | grep -v '(/' | sed -E 's/ \([a-z-]+\)//; s/ \(\*\)$//; s/^([^ ]+) v/\1 /' | LC_ALL=C sort -u > "$work/crates"

mkdir "$work/texts" "$work/users"
while IFS='|' read -r crate licence _; do
  [ -n "$licence" ] || { echo "$crate has no licence" >&2; exit 1; }
  folder=$(find "$sources" -mindepth 2 -maxdepth 2 -type d -name "${crate% *}-${crate#* }" | head -1)
  [ -n "$folder" ] || { echo "the sources of $crate are not in $sources: run cargo fetch" >&2; exit 1; }
  while read -r text; do
    hash=$(sha256sum < "$text" | cut -d ' ' -f 1)
    cp "$text" "$work/texts/$hash"
    echo "  $crate" >> "$work/users/$hash"
  done < <(find "$folder" -maxdepth 2 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'unlicense*' \) ! -name '*.rs' | LC_ALL=C sort)
done < "$work/crates"

echo "The executable \`somaagent\` contains code of the following projects."
echo
awk -F '|' '{ printf "%s  (%s)  %s\n", $1, $2, $3 }' "$work/crates"
for text in "$work"/texts/*; do
  printf '\n%s\n' "--------------------------------------------------------------------------------"
  LC_ALL=C sort -u "$work/users/$(basename "$text")"
  echo
  cat "$text"
done
