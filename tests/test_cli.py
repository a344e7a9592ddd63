"""The command line: fast to answer, plain where it is piped, one sentence where the user erred."""

from __future__ import annotations

import logging
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner

from tandem.cli import app

COMMANDS = (
    *("train", "eval", "demo", "doctor", "pretrain", "methods", "check", "report"),
    *("study", "compare", "probe", "diagnose"),
)


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


def test_the_list_of_commands_is_not_cut_at_80_columns() -> None:
    out = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    listed = out.partition("Commands:")[2].splitlines()[1:]
    assert {line.split()[0] for line in listed if line.strip()} == set(COMMANDS)
    assert all(len(line) <= 80 and "..." not in line for line in listed)


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


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("/nope", "the model folder '/nope' does not exist: check the path"),
        ("runs/nope", "the model folder 'runs/nope' does not exist: check the path"),
        (
            "runs/demo-1",
            "runs/demo-1 holds several runs; name one: runs/demo-1/opd, runs/demo-1/trb",
        ),
        (
            "runs",
            "runs holds neither a run (config.yaml) nor a model (config.json); check the path",
        ),
        ("a.yaml", "a.yaml is a file; give a run's folder, a model's folder or a hub id"),
    ],
)
@pytest.mark.parametrize("task", [(), ("--task", "arithmetic")])
def test_eval_says_first_that_nothing_is_at_the_path(
    model: str,
    sentence: str,
    task: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("opd", "trb"):
        (tmp_path / "runs" / "demo-1" / name).mkdir(parents=True)
        (tmp_path / "runs" / "demo-1" / name / "config.yaml").write_text(f"name: {name}\n")
    (tmp_path / "a.yaml").write_text("")
    assert _run("eval", model, *task) == (2, "", f"tandem: {sentence}\n")


def test_a_demos_folder_names_its_runs_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("opd", "trb"):
        (tmp_path / "demo" / name).mkdir(parents=True)
        (tmp_path / "demo" / name / "config.yaml").write_text(f"name: {name}\n")
    code, _, err = _run("report", "demo")
    assert code == 2 and err.endswith("it holds several runs; name one: demo/opd, demo/trb\n")


def test_doctor_without_a_network_says_its_verdict_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []

    def no_name_service(host: str, *arguments: object, **options: object) -> None:
        tries.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name_service)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    said: list[str] = []
    watcher = logging.Handler()
    watcher.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(watcher)
    try:
        code, _, err = _run("doctor", "arithmetic", "teacher.path=nobody/nothing")
    finally:
        logger.removeHandler(watcher)
        logger.setLevel(before)
    assert tries, "the hub was asked"
    assert said == []
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("tandem: cannot open model 'nobody/nothing' (")


def test_pretrain_draws_no_bar_of_a_librarys_where_its_output_is_piped(tmp_path: Path) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_progress_bar()
    output = tmp_path / "model"
    small = ("steps=1", "batch=2", "optimizer.warmup_steps=0", "--output", str(output))
    code, out, err = _run("pretrain", "arithmetic_base", *small)
    assert (code, err) == (0, "")
    assert out.startswith(f"{output}: ") and out.count("\n") == 1


def test_a_hub_id_needs_a_task() -> None:
    said = "tandem: owner/name is no run, so it brings no task; add --task (arithmetic, math)\n"
    assert _run("eval", "owner/name") == (2, "", said)


def test_a_prompt_that_does_not_fit_is_named_and_not_its_number() -> None:
    code, _, err = _run(
        "eval", "embedded:student", "--task", "arithmetic", "limits.max_new_tokens=127",
        "evaluation.problems=3",
    )  # fmt: skip
    assert code == 2
    assert re.match(
        r"tandem: prompt '[^']+' can never fit the student: \d+ prompt tokens \+ 127", err
    )
