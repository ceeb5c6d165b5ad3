#!/usr/bin/env bash
# mkdocs==1.6.1, mkdocstrings-python==2.0.11, griffelib==2.4.1: an `Args:`
# section in the docstring of a NamedTuple makes `mkdocs build --strict` fail:
# the fields are said not to be parameters. The same docstring on a dataclass is
# fine, as griffe makes up a signature for dataclasses only.
#
# Whoever adds `--quiet` to see only such warnings sees none, and the strict
# build passes: warnings that are not shown are not counted.
#
# output seen:
#   dataclass: built
#   NamedTuple: aborted, x is no parameter
#   NamedTuple, --quiet: built
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mkdocs==1.6.1 mkdocstrings==1.0.8 \
  mkdocstrings-python==2.0.11 griffelib==2.4.1
cd "$folder"
mkdir docs
echo '::: shapes' > docs/index.md
cat > mkdocs.yml <<'YAML'
site_name: shapes
plugins:
  - mkdocstrings
YAML
tell() {
  cat > shapes.py
  printf '\nclass Shape%s:\n    """A shape.\n\n    Args:\n        x: Its width.\n    """\n\n    x: int = 1\n' "$2" >> shapes.py
  if PYTHONPATH=. venv/bin/mkdocs build --strict "${@:3}" > log 2>&1; then
    echo "$1: built"
  elif grep -q "Parameter 'x' does not appear in the function signature" log; then
    echo "$1: aborted, x is no parameter"
  else
    cat log
    exit 1
  fi
}
{
  printf 'from dataclasses import dataclass\n\n\n@dataclass' | tell dataclass ''
  printf 'from typing import NamedTuple\n\n' | tell NamedTuple '(NamedTuple)'
  printf 'from typing import NamedTuple\n\n' | tell 'NamedTuple, --quiet' '(NamedTuple)' --quiet
} | tee output
grep -qx 'dataclass: built' output
grep -qx 'NamedTuple: aborted, x is no parameter' output
grep -qx 'NamedTuple, --quiet: built' output
