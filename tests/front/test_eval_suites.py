"""`tandem eval --suite`: its arguments, the words a model is asked in, and the embedded pair."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tandem.cli import app
from tandem.evaluation.suites import suite_named
from tandem.front.suites import default_output, instructed, plan_suites
from tandem.models.prompts import encode_prompt
from tandem.models.settings import ModelSettings

STEP_BY_STEP = r"Please reason step by step, and put your final answer within \boxed{}."
SMALL = ("limits.problems=12", "arithmetic.max_new_tokens=24")


def tandem(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_fields_are_said_for_all_suites_or_for_one() -> None:
    planned = plan_suites(
        "embedded:student",
        suites=["aime24", "arithmetic"],
        samples=3,
        overrides=["suite.temperature=0.5", "arithmetic.samples=7", "limits.slots=2"],
    )
    aime, arithmetic = planned.suites
    assert (aime.samples, aime.temperature) == (3, 0.5)
    assert (arithmetic.samples, arithmetic.temperature) == (7, 0.5)
    assert planned.limits.slots == 2
    assert planned.limits.threads == 1, "what the embedded pair brings with it"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--suite", "math50"), "there is no suite 'math50'; did you mean 'math500'?"),
        (("--suite", "gsm8k,gsm8k"), "--suite is 'gsm8k,gsm8k'; name some of math500, olymp"),
        (("--suite", "gsm8k", "suite.sample=3"), "suite gsm8k has no field 'sample'; did you mean"),
        (
            ("--suite", "gsm8k", "aime24.samples=3"),
            "unknown section 'aime24'; there are model, lim",
        ),
        (("--suite", "gsm8k", "--samples", "0"), "samples of suite gsm8k is 0, but it should be g"),
        (("--suite", "gsm8k", "--task", "math"), "--task and --suite are both given; evaluate one"),
        (("--samples", "3", "--task", "arithmetic"), "--samples is of suites; name some with --s"),
        (("--suite", "gsm8k", "limits.slot=3"), "unknown key 'limits.slot' in override 'limits.s"),
        (("--suite", "gsm8k", "--data-root", "/nowhere"), "suite gsm8k looks for its problems in"),
        (("--suite", "livecodebench"), "suite livecodebench needs file; say livecodebench.file="),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    code, _, err = tandem("eval", "embedded:student", *arguments)
    assert code == 2 and err.startswith("tandem: ") and err.count("\n") == 1
    assert sentence in err


def test_an_engine_that_is_not_installed_is_a_sentence(tmp_path: Path) -> None:
    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    arguments = ("--suite", "arithmetic", "--engine", "vllm", "--output", str(tmp_path / "out"))
    code, _, err = tandem("eval", "embedded:student", *arguments)
    assert code == 2 and err.startswith("tandem: ") and "vllm" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_chat_model_reads_the_instruction_as_its_systems_words() -> None:
    suite = suite_named("math500", {})
    chat = ModelSettings(path="x", prompt="chat")
    assert instructed(chat, suite).system == STEP_BY_STEP
    own = ModelSettings(path="x", prompt="chat", system="Be brief.")
    assert instructed(own, suite) == own
    assert instructed(chat, suite_named("arithmetic", {})) == chat


def test_a_model_of_plain_text_reads_it_in_the_stated_template() -> None:
    suite = suite_named("gsm8k", {})
    asked = instructed(ModelSettings(path="x"), suite)
    assert asked.template == f"{STEP_BY_STEP}\n\nProblem: {{problem}}\n\nSolution:"
    own = ModelSettings(path="x", template="Q: {problem}\nA:")
    assert instructed(own, suite) == own
    bare = ModelSettings(path="x")
    assert instructed(bare, suite_named("humaneval", {})) == bare, "code is continued as it is"


def test_answers_lie_in_the_runs_folder_or_by_the_models_name(tmp_path: Path) -> None:
    assert default_output("Qwen/Qwen3-1.7B") == Path("runs/suites/Qwen-Qwen3-1.7B")
    assert default_output("embedded:student") == Path("runs/suites/embedded-student")
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert default_output(str(tmp_path)) == tmp_path / "suites" / "final"
    assert default_output(f"{tmp_path}@best") == tmp_path / "suites" / "best"


def test_the_embedded_student_is_evaluated_extended_and_not_asked_twice(tmp_path: Path) -> None:
    arguments = ("eval", "embedded:student", "--suite", "arithmetic", "--output", str(tmp_path))
    code, out, err = tandem(*arguments, "--samples", "2", *SMALL)
    assert (code, err) == (0, "")
    head, row = out.splitlines()[1:3]
    assert head.split()[:3] == ["suite", "problems", "pass@1"]
    assert row.startswith("arithmetic  12 × 2 ")
    folder = tmp_path / "arithmetic"
    kept = (folder / "generations.jsonl").read_bytes()
    first = json.loads((folder / "result.json").read_bytes())
    assert len(first["scores"]) == first["problems"] == 12 and first["left_out"] == 988
    assert tandem(*arguments, "--samples", "2", *SMALL)[1] == out
    assert (folder / "generations.jsonl").read_bytes() == kept, "nothing was asked again"
    code, _, _ = tandem(*arguments, "--samples", "3", *SMALL)
    assert code == 0
    assert (folder / "generations.jsonl").read_bytes().startswith(kept)
    assert tandem(*arguments, "--samples", "2", *SMALL)[1] == out, "the first two are the same"


def test_samples_do_not_depend_on_slots_or_on_how_many_there_are(tmp_path: Path) -> None:
    texts: list[dict[tuple[str, int], str]] = []
    for n, (samples, slots) in enumerate([(3, 64), (1, 5), (2, 3)]):
        output = tmp_path / str(n)
        code, _, err = tandem(
            *("eval", "embedded:student", "--suite", "arithmetic", "--output", str(output)),
            *("--samples", str(samples), f"limits.slots={slots}", *SMALL),
        )
        assert code == 0, err
        lines = (output / "arithmetic" / "generations.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        texts.append({(row["problem"], row["sample"]): row["text"] for row in rows})
    whole, one, two = texts
    assert [len(t) for t in texts] == [36, 12, 24]
    assert one.items() <= whole.items() and two.items() <= whole.items()
    assert len(set(whole.values())) > 24, "samples of one problem differ"


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "killed" / "arithmetic" / "generations.jsonl"
    arguments = ("eval", "embedded:student", "--suite", "arithmetic", "--output")
    process = subprocess.Popen(
        [sys.executable, "-m", "tandem", *arguments, str(tmp_path / "killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (kept.is_file() and kept.stat().st_size > 10_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    whole = kept.read_bytes().rpartition(b"\n")[0] + b"\n"
    more = ("--samples", "1", "limits.problems=400")
    code, out, err = tandem(*arguments, str(tmp_path / "killed"), *more)
    assert (code, err) == (0, "")
    assert kept.read_bytes().startswith(whole), "what was finished stays"
    code, fresh, _ = tandem(*arguments, str(tmp_path / "fresh"), *more)
    assert code == 0 and out.splitlines()[1:3] == fresh.splitlines()[1:3]


def test_another_seed_or_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    arguments = ("--suite", "arithmetic", "--output", str(tmp_path), "--samples", "1", *SMALL)
    assert tandem("eval", "embedded:student", *arguments)[0] == 0
    for more, name in (
        (("embedded:student", "--seed", "1"), "seed (0; now 1)"),
        (("embedded:teacher",), "model ("),
        (("embedded:student", "suite.temperature=0.7"), "temperature (1.0; now 0.7)"),
        (("embedded:student", "model.dtype=bfloat16"), "model ("),
    ):
        code, _, err = tandem("eval", *more, *arguments)
        assert code == 2 and err.count("\n") == 1
        assert f"{tmp_path}/arithmetic holds answers of another {name}" in err


@pytest.mark.data
@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_real_problems_are_asked_in_the_real_chat_template(
    prompt: str, tmp_path: Path, test_data: Path
) -> None:
    model = real_shaped_model(tmp_path / "model", test_data)
    code, out, err = tandem(
        *("eval", str(model), f"model.prompt={prompt}", "--suite", "gsm8k,math500"),
        *("--data-root", str(test_data), "--output", str(tmp_path / "out"), "--samples", "1"),
        *("limits.problems=3", "suite.max_new_tokens=6", "suite.workers=1"),
    )
    assert (code, err) == (0, "")
    for kind in ("gsm8k", "math500"):
        result = json.loads((tmp_path / "out" / kind / "result.json").read_bytes())
        assert result["problems"] == 3 and result["pass@1"]["mean"] == 0.0
        # Six draws over 151,669 ids end a response about never.
        assert result["truncated"] == 1.0 and result["no_answer"] == 1.0
        assert result["length"] == 6.0
    assert "100.0 %" in out


@pytest.mark.slow
@pytest.mark.data
def test_whole_gsm8k_and_math500_run_on_a_random_model_with_the_real_tokenizer(
    tmp_path: Path, test_data: Path
) -> None:
    model = real_shaped_model(tmp_path / "model", test_data)
    code, out, err = tandem(
        *("eval", str(model), "model.prompt=chat", "--suite", "gsm8k,math500"),
        *("--data-root", str(test_data), "--output", str(tmp_path / "out"), "--samples", "1"),
        *("suite.max_new_tokens=8", "suite.workers=1", "limits.slots=128"),
    )
    print(out)
    assert (code, err) == (0, "")
    for kind, count in (("gsm8k", 1_319), ("math500", 500)):
        result = json.loads((tmp_path / "out" / kind / "result.json").read_bytes())
        assert result["problems"] == count and result["dropped"] == 0
        assert result["pass@1"]["mean"] == 0.0 and result["truncated"] > 0.99


@pytest.mark.data
def test_the_published_system_prompt_is_in_the_ids(tmp_path: Path, test_data: Path) -> None:
    from transformers import AutoTokenizer

    from tandem.models.loading import load_model

    loaded = load_model(ModelSettings(path=str(real_shaped_model(tmp_path, test_data))))
    suite = suite_named("gsm8k", {"data_root": test_data})
    chat = instructed(ModelSettings(path="x", prompt="chat", thinking=False), suite)
    ids = encode_prompt(type(loaded)(loaded.model, loaded.tokenizer, (0,), chat), suite.problems[0])
    text = AutoTokenizer.from_pretrained(test_data / "tokenizers" / "qwen3").decode(ids)
    problem = suite.problems[0].text
    assert f"<|im_start|>system\n{STEP_BY_STEP}<|im_end|>" in text
    assert f"<|im_start|>user\n{problem}<|im_end|>" in text
    assert text.count(STEP_BY_STEP) == 1


def real_shaped_model(folder: Path, test_data: Path) -> Path:
    """A random model that is small but for its vocabulary, with the real Qwen3 tokenizer."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(test_data / "tokenizers" / "qwen3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=151_936,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
