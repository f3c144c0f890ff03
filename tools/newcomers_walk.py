"""Follows the README on a bare Debian 12: both commands, as root in a new container, each step timed.

``python tools/newcomers_walk.py`` makes the container by debootstrap, gives it the commit that is checked out, reads
the commands out of README.md and runs them there; ``--skip-tests`` leaves out the second, which takes half an hour.
Nothing of this machine is in the container but what networks ask for: its certificate authorities, and its settings of
pip and npm. ``--write FILE`` keeps the table. Exit status 0 only when every step did what the README says.

It needs root, debootstrap and a Docker engine; where none answers it starts Debian's for the time of the walk.
DEBIAN_MIRROR names another mirror than Debian's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
CONTAINER: Final = "farthing-newcomer"
IMAGE: Final = "farthing-newcomer:bare"
HOME: Final = "/root/farthing"
FOR_A_CHECKOUT: Final = ("git", "make", "python3", "ca-certificates")
"""What a newcomer has before the first command; everything else is the project's to install."""
AUTHORITIES: Final = Path("/usr/local/share/ca-certificates")
BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian keeps the authorities of the network that the machine is in, and all that it trusts."""
PRIVILEGES: Final = (
    *(f"--cap-add={name}" for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_NICE")),
    *(f"--security-opt={option}=unconfined" for option in ("seccomp", "apparmor", "systempaths")),
)
"""What a Docker engine within the container needs; less than everything, which not every machine may give."""
SHARED_MEMORY: Final = "2g"
TRUST: Final = ("PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
READY: Final = "press Ctrl-C to stop"
ASK: Final = """
import sys, urllib.request
headers = {"Authorization": f"Bearer {word}" for word in sys.argv[2:]}
print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=10).read().decode())
"""
"""A request, in the Python that every newcomer has."""
UP_SECONDS: Final = 600.0
DATA_SECONDS: Final = 120.0
TEST_SECONDS: Final = 90 * 60.0


class WalkError(Exception):
    """A step that did not do what the README says; one line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table."""

    what: str
    seconds: float
    seen: str


def main(arguments: list[str]) -> int:
    """Walk; exit status 0, or 1 with the step that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-tests", action="store_true", help="leave out the README's second command")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown into a file")
    parser.add_argument("--keep", action="store_true", help="leave the container there, to look into")
    options = parser.parse_args(arguments)
    steps: list[Step] = []
    walked = commit()
    try:
        for program in ("debootstrap", "docker", "git"):
            if shutil.which(program) is None:
                raise WalkError(f"{program} is missing; apt-get install debootstrap docker.io git")
        if os.geteuid() != 0:
            raise WalkError("debootstrap and Docker need root")
        up, test = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
        with docker_engine() as environment, container(environment, steps, keep=options.keep) as walk:
            walk.steps(up, None if options.skip_tests else test)
    except WalkError as error:
        sys.stderr.write(f"newcomers_walk: {error}\n")
        return 1
    finally:
        table = table_of(steps, walked)
        sys.stdout.write(table)
        if options.write is not None and steps:
            options.write.write_text(table, encoding="utf-8")
    return 0


def commands_of(readme: str) -> tuple[str, str]:
    """The README's two commands, without their comments."""
    section = readme.partition("## Two commands\n")[2].partition("\n## ")[0]
    found = [line.partition("#")[0].strip() for line in section.splitlines() if line.startswith("    ")]
    if len(found) != 2:
        raise WalkError(f"README.md: 'Two commands' has {len(found)} commands; it promises two")
    return found[0], found[1]


def commit() -> str:
    """The commit that is walked, as git abbreviates it."""
    return _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()


def table_of(steps: list[Step], of: str) -> str:
    """The steps as a Markdown table."""
    lines = [f"Commit {of}, {os.cpu_count()} processors.", "", "| step | seconds | what was seen |", "|---|---:|---|"]
    lines += [f"| {step.what} | {step.seconds:.0f} | {step.seen} |" for step in steps]
    return "\n".join(lines) + "\n"


def terminal_text(typescript: str) -> str:
    """What was shown, of a file that `script` kept: without colours, and without what it adds about itself."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", typescript)
    return "\n".join(line for line in plain.splitlines() if not line.startswith(("Script started", "Script done")))


@contextlib.contextmanager
def docker_engine() -> Iterator[dict[str, str]]:
    """The environment in which `docker` finds an engine: the one that answers, else one for this walk."""
    environment = dict(os.environ)
    if _answers(environment):
        yield environment
        return
    folder = Path(tempfile.mkdtemp(prefix="farthing-walk-"))
    environment["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", environment["DOCKER_HOST"], "--pidfile", str(folder / "pid")]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _eventually(60, lambda: _answers(environment), f"dockerd did not answer; see {folder}/log")
        yield environment
    finally:
        engine.terminate()
        engine.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(environment: Mapping[str, str]) -> bool:
    done = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0 and bool(done.stdout.strip())


@dataclass(frozen=True, slots=True)
class Walk:
    """The newcomer's machine, and what was seen on it so far."""

    environment: Mapping[str, str]
    taken: list[Step]

    def steps(self, up: str, test: str | None) -> None:
        """From the bare machine to the end of the second command."""
        packages = " ".join(FOR_A_CHECKOUT)
        self._step(
            f"`apt-get install {packages}`",
            f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes {packages} >/dev/null",
        )
        self._docker("exec", CONTAINER, "update-ca-certificates", "--fresh")
        self._step("`git clone`", f"git clone --quiet /root/farthing.bundle {HOME}")
        self._up(up)
        if test is not None:
            self._test(test)

    def _step(self, what: str, command: str) -> None:
        began = time.monotonic()
        done = self._exec(command, 600)
        self._took(what, began, "done" if done.returncode == 0 else "failed")
        if done.returncode != 0:
            raise WalkError(f"{what}: {_last(done.stdout + done.stderr)}")

    def _up(self, command: str) -> None:
        """Until the page shows what tenants are charged; then Ctrl-C."""
        began = time.monotonic()
        # on a terminal, for there the login link is shown; Ctrl-C reaches everything in the group that leads it
        lines = ("#!/bin/bash", "cut --delimiter=' ' --fields=5 /proc/self/stat >/root/up.group", f"exec {command}")
        self._exec(f"printf '%s\\n' {shlex.join(lines)} >/root/up.sh && chmod 755 /root/up.sh", 60)
        terminal = "script --quiet --flush --return --command /root/up.sh /root/up.log"
        self._exec(f"cd {HOME} && ({terminal} >/dev/null; echo $? >/root/up.status) & sleep 0.1", 60)
        _eventually(UP_SECONDS, lambda: self._printed(READY) or self._ended(), f"`{command}` never got ready")
        if not self._printed(READY):
            raise WalkError(f"`{command}`: {_last(self._shown())}")
        self._took(f"`{command}`, until it is ready", began, "every part answers")
        began = time.monotonic()
        _eventually(DATA_SECONDS, lambda: bool(self._tenants()), "the page shows nobody's cost")
        self._took("until the page shows costs", began, f"tenants {', '.join(self._tenants())}")
        began = time.monotonic()
        self._exec("kill -INT -- -$(cat /root/up.group)", 60)
        _eventually(120, self._ended, "Ctrl-C did not end it")
        status = self._read("/root/up.status").strip()
        self._took("Ctrl-C", began, f"exit status {status}")
        # make is interrupted as well, and says so by its status
        if status not in {"0", "130"} or not self._shown().rstrip().endswith("stopped"):
            raise WalkError(f"`{command}` ended with {status}: {_last(self._shown())}")

    def _test(self, command: str) -> None:
        began = time.monotonic()
        done = self._exec(f"cd {HOME} && CI=true {command} 2>&1 | tee /root/test.log | tail -n 40", TEST_SECONDS)
        results = re.findall(r"=+ (.*(?:passed|failed|error).*) in .*=+", self._read("/root/test.log"))
        self._took(f"`{command}`", began, "; ".join(results) or "no test ran")
        if done.returncode != 0:
            raise WalkError(f"`{command}` failed:\n{done.stdout}")

    def _tenants(self) -> list[str]:
        """Who is charged, as the page's own data says to whoever follows the link that was shown."""
        token = re.search(r"#token=([\w-]+)", self._shown())
        ask = f"python3 -c '{ASK}' http://127.0.0.1:9464/api/v1/snapshot {token[1] if token else ''}"
        answer = self._exec(f"{ask} || true", 30).stdout
        if not answer.strip():
            return []
        return sorted({str(row["tenant"]) for row in json.loads(answer)["tenants"]})

    def _printed(self, text: str) -> bool:
        return text in self._shown()

    def _shown(self) -> str:
        """What stands on the newcomer's terminal."""
        return terminal_text(self._read("/root/up.log"))

    def _ended(self) -> bool:
        return bool(self._read("/root/up.status"))

    def _read(self, path: str) -> str:
        return self._exec(f"cat {path} 2>/dev/null || true", 30).stdout

    def _took(self, what: str, began: float, seen: str) -> None:
        self.taken.append(Step(what, time.monotonic() - began, seen))
        sys.stderr.write(f"newcomers_walk: {what}: {self.taken[-1].seconds:.0f} s, {seen}\n")

    def _exec(self, command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        return self._docker("exec", CONTAINER, "bash", "-o", "pipefail", "-c", command, seconds=seconds)

    def _docker(self, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["docker", *words], env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise WalkError(f"still running after {seconds:.0f} s: {words[-1]}") from error


@contextlib.contextmanager
def container(environment: dict[str, str], steps: list[Step], *, keep: bool) -> Iterator[Walk]:
    """A machine as debootstrap leaves it, with the commit beside it; it may run a Docker engine of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="farthing-walk-") as name:
        folder = Path(name)
        bundle = folder / "farthing.bundle"
        _run(["git", "-C", str(ROOT), "bundle", "create", "--quiet", str(bundle), "HEAD"])
        _run(["debootstrap", "--variant=minbase", SUITE, str(folder / "root"), os.environ.get("DEBIAN_MIRROR", MIRROR)])
        tar = subprocess.Popen(["tar", "-C", str(folder / "root"), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "import", "-", IMAGE], stdin=tar.stdout, env=environment, check=True, stdout=subprocess.DEVNULL
        )
        # tests start an engine too, whose layers cannot lie on layers: what is below /tmp is on a volume
        command = ["run", "--detach", "--init", *PRIVILEGES, "--name", CONTAINER, "--volume", "/tmp"]  # noqa: S108  # nosec B108
        # a machine's own is half of its memory; a container's is too small for an engine
        command += [f"--shm-size={SHARED_MEMORY}"]
        for variable, value in passed_on(os.environ).items():
            command += ["--env", f"{variable}={value}"]
        for path in local_folders(os.environ):
            command += ["--volume", f"{path}:{path}:ro"]
        docker = ["docker", *command, IMAGE, "sleep", "infinity"]
        subprocess.run(docker, env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            # without privileges control groups are mounted so that no engine could make its own
            writable = "for group in /sys/fs/cgroup/*; do test -L $group || mount -o remount,bind,rw $group; done"
            subprocess.run(["docker", "exec", CONTAINER, "sh", "-c", writable], env=environment, check=False)
            for source, target in ((bundle, "/root/"), (AUTHORITIES, "/usr/local/share/")):
                if source.exists():
                    copy = ["docker", "cp", str(source), f"{CONTAINER}:{target}"]
                    subprocess.run(copy, env=environment, check=True, stdout=subprocess.DEVNULL)
            steps.append(Step("a bare Debian 12 (debootstrap)", time.monotonic() - began, "minbase, nothing else"))
            yield Walk(environment, steps)
        finally:
            if not keep:
                remove = ["docker", "rm", "--force", "--volumes", CONTAINER]
                subprocess.run(remove, env=environment, check=False, capture_output=True)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of the network that a newcomer's machine would have too: pip's, npm's, and whom to trust."""
    kept = {name: value for name, value in environment.items() if name.startswith(("PIP_", "npm_config_"))}
    if any(AUTHORITIES.glob("*.crt")):
        kept |= dict.fromkeys(TRUST, BUNDLE)
    return kept


def local_folders(environment: Mapping[str, str]) -> list[str]:
    """Folders of wheels on this machine that pip is told to look into."""
    return [path for path in environment.get("PIP_FIND_LINKS", "").split() if Path(path).is_dir()]


def _eventually(seconds: float, holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise WalkError(otherwise)
        time.sleep(0.5)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WalkError(f"{command[0]}: {_last(done.stdout + done.stderr)}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    return lines[-1] if lines else "no message"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
