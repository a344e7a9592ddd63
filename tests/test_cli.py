"""The command line: fast to answer, plain where it is piped, one sentence where the user erred."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem.cli import app

COMMANDS = ("train", "eval", "demo", "doctor", "pretrain", "methods", "check", "report")


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_help_answers_in_under_half_a_second() -> None:
    def seconds() -> float:
        # Processor time: what else the machine does is not the command's fault.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "tandem", "--help"], capture_output=True)
        assert done.returncode == 0 and b"doctor" in done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(seconds() for _ in range(5)) < 0.5


def test_help_imports_neither_torch_nor_transformers_nor_pydantic() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from tandem.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    code, out, _ = _run(command, "--help")
    assert code == 0 and f"tandem {command}" in out.replace("root ", "tandem ")


def test_methods_lists_every_behaviour_and_objective() -> None:
    code, out, _ = _run("methods")
    assert code == 0
    for kind in ("student", "temperature_warmup", "trust_region_blend", "fixed_budget_blend"):
        assert f"\n  {kind} " in out
    for kind in ("fixed_exponent_blend", "teacher", "reverse_kl", "arithmetic"):
        assert f"\n  {kind} " in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "nothing.yaml"), "no recipe 'nothing.yaml': it is neither a file nor one of"),
        (
            ("train", "arithmetic", "training.stepps=3"),
            "unknown key 'training.stepps' in",
        ),
        (("train", "arithmetic", "training.stepps=3"), "did you mean 'steps'?"),
        (
            ("train", "arithmetic", "training.steps=three"),
            "training.steps is 'three' in",
        ),
        (("train", "arithmetic", "steps"), "override 'steps' is not of the form section.key=value"),
        (("train", "arithmetic", "behaviour.kind=studnt"), "did you mean 'student'?"),
        (("doctor", "arithmetic", "student.path=embedded:nobody"), "no embedded model"),
        (("report", "nowhere"), "nowhere is not a run folder: there is no such folder; give"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = _run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("tandem: ") and err.count("\n") == 1
    assert sentence in err


def test_doctor_prints_one_plain_line_per_check_off_a_terminal() -> None:
    code, out, _ = _run("doctor", "arithmetic")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("student  embedded:student (")
    assert any(line.startswith("ok    tokenizers: ") for line in lines)
    assert all(line.startswith(("ok  ", "warn", "fail", "student", "teacher")) for line in lines)


def test_doctor_fails_with_exit_code_1_where_a_check_fails() -> None:
    code, out, _ = _run(
        "doctor", "arithmetic", "rollout.max_prompt_tokens=2", "task.train_size=100"
    )
    assert code == 1
    assert "fail  prompt lengths: all " in out


def test_report_is_written_where_the_run_lies(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: bare\n")
    code, out, _ = _run("report", str(tmp_path))
    assert code == 0 and out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


def test_the_embedded_pair_is_evaluated_within_its_context_by_default() -> None:
    from tandem.front.evaluating import plan

    limits = plan("embedded:student", task="arithmetic", overrides=[]).limits
    assert limits.max_prompt_tokens + limits.max_new_tokens <= 128
