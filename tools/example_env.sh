#!/usr/bin/env bash
# Makes, once, the Python environment of examples/rag outside the tree, and prints its interpreter.
#
#   tools/example_env.sh            the interpreter's path on stdout, progress on stderr
#
# FARTHING_EXAMPLE_ENV    where it lies (default: the user's cache folder, a folder for each state of the requirements)
#
# Safe to run again, to run twice at once, and to interrupt.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly REQUIREMENTS=examples/rag/requirements.txt UV=.venv-tools/bin/uv
digest=$(sha256sum "$REQUIREMENTS")
cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set: set FARTHING_EXAMPLE_ENV}/.cache}
readonly ENVIRONMENT=${FARTHING_EXAMPLE_ENV:-$cache/farthing/example-${digest:0:12}}
readonly STAMP=$ENVIRONMENT/.farthing-complete

say() { printf 'example_env: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

complete() {
  [[ -f $STAMP && $(<"$STAMP") == "$digest" ]] && "$ENVIRONMENT/bin/python" -c '' 2>/dev/null
}

if ! complete; then
  [[ -x $UV ]] || fail "$UV is not there; make it with tools/bootstrap.sh python"
  mkdir -p "$(dirname "$ENVIRONMENT")"
  exec 9>"$ENVIRONMENT.lock"
  flock 9
  if ! complete; then
    if [[ -n $(ls -A "$ENVIRONMENT" 2>/dev/null) && ! -f $ENVIRONMENT/pyvenv.cfg ]]; then
      fail "$ENVIRONMENT is there and is no virtual environment; remove it, or set FARTHING_EXAMPLE_ENV to another folder"
    fi
    say "installing $REQUIREMENTS into $ENVIRONMENT"
    "$UV" venv --quiet --clear --python .venv/bin/python "$ENVIRONMENT" || fail 'no virtual environment could be made'
    "$UV" pip install --quiet --python "$ENVIRONMENT/bin/python" --requirement "$REQUIREMENTS" ||
      fail 'the packages cannot be installed; uv says why above'
    printf '%s\n' "$digest" >"$STAMP"
  fi
fi
printf '%s\n' "$ENVIRONMENT/bin/python"
