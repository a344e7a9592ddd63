"""Several teachers by domain, and the reference: routing, runs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_tiny import tiny_model, tiny_recipe

from tandem import run as api
from tandem.front.doctor import examine
from tandem.models.cast import load_cast
from tandem.models.character import character_tokenizer
from tandem.models.residency import Guest, Stage
from tandem.tasks.arithmetic import ALPHABET, Arithmetic
from tandem.tasks.base import Prompt, Split
from tandem.training.config import RunConfig, config_from_dict, dump_config, load_config
from tandem.training.loop import train_loop
from tandem.training.parallel import open_world
from tandem.training.rehearsal import rehearse
from tandem.training.requests import RequestSource
from tandem.training.teachers import teacher_of
from tandem.wiring import assemble, estimate_memory

CPU = torch.device("cpu")


class Sums(Arithmetic):
    """Chains by their first digit: small ones and large ones."""

    kind: Literal["sums"] = "sums"  # pyright: ignore[reportIncompatibleVariableOverride]

    def prompts(self, split: Split) -> list[Prompt]:
        return [
            Prompt(p.id, p.messages, p.answer, domain="low" if p.text[0] < "5" else "high")
            for p in super().prompts(split)
        ]


def prompt(text: str, domain: str = "") -> Prompt:
    return Prompt(text, ({"role": "user", "content": text},), domain=domain)


@pytest.fixture(scope="module")
def trio(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe of four steps with two teachers that end with different ids and read differently."""
    folder = tmp_path_factory.mktemp("large")
    large = tiny_model(3, rows=18, layers=3)
    assert large.generation_config is not None
    large.generation_config.eos_token_id = 5
    large.save_pretrained(folder)
    character_tokenizer(ALPHABET).save_pretrained(folder)
    recipe = tiny_recipe(pair)
    del recipe["teacher"]
    teachers = {
        "low": {"path": str(pair / "teacher")},
        "high": {"path": str(folder), "template": "0+{problem}"},
    }
    return recipe | {
        "teachers": teachers,
        "task": Sums(train_size=200, validation_size=20, test_size=20),
        "behaviour": {"kind": "trust_region_blend", "budget": 0.05, "warmup_steps": 2},
        "training": {"steps": 3, "tokens_per_micro_batch": 60},
        "evaluation": None,
    }


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def test_a_prompt_is_judged_by_the_teacher_of_its_domain() -> None:
    names = ["low", "high"]
    assert [teacher_of(prompt("1", d), names) for d in ("high", "low")] == ["high", "low"]
    # A single teacher takes everything.
    assert teacher_of(prompt("1", "poetry"), ["teacher"]) == "teacher"


@pytest.mark.parametrize(
    ("domain", "said"),
    [("poetry", "domain 'poetry'"), ("", "no domain"), ("teacher", "domain 'teacher'")],
)
def test_a_domain_without_a_teacher_is_refused(domain: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        teacher_of(prompt("17", domain), ["low", "high"])
    assert str(raised.value) == (
        f"prompt '17' has {said}, but the teachers are low, high: name a teacher for it, or leave "
        "such prompts out"
    )


def test_requests_carry_their_teacher_and_its_own_reading(trio: dict[str, Any]) -> None:
    def source(prompts: list[Prompt]) -> RequestSource:
        def plain(prompt: Prompt) -> tuple[int, ...]:
            return tuple(map(int, prompt.text))

        def prefixed(prompt: Prompt) -> tuple[int, ...]:
            return (0, *plain(prompt))

        return RequestSource(
            prompts,
            encode_student=plain,
            encode_teachers={"low": plain, "high": prefixed},
            settings=config_from_dict(trio).rollout,
            seed=0,
            rollouts=2,
        )

    texts = [str(i) for i in range(11, 99, 7)]
    prompts = [prompt(t, "low" if t < "5" else "high") for t in texts]
    with open_world(CPU) as world:
        asked = [r for step in range(2) for r in source(prompts)(step, world)]
    assert {r.teacher for r in asked} == {"low", "high"}
    for request in asked:
        high = request.student_ids[0] >= 5
        assert request.teacher == ("high" if high else "low")
        assert request.teacher_ids == (0,) * high + request.student_ids
    # Also where the run would never ask it.
    with pytest.raises(ValueError, match=r"^prompt '1' has domain 'poetry', but the teachers are"):
        source([*prompts, prompt("1", "poetry")])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"teacher": {"path": "x"}},
            "the recipe gives both teacher and teachers: give one teacher, or several by the "
            "domains they judge",
        ),
        (
            {"teachers": {}},
            "the recipe gives neither teacher nor teachers: give one teacher, or several by the "
            "domains they judge",
        ),
        (
            {"teachers": {"a.b": {"path": "x"}}},
            "teachers has the name 'a.b': give a domain, a word without a dot",
        ),
        (
            {"teachers": None, "teacher": {"path": "x"}, "residency": "one"},
            "residency is one, but there is a single teacher, which stays on the device: leave "
            "residency out",
        ),
        (
            {"teachers": {"low": {"pth": "x"}}},
            "unknown key 'teachers.low.pth' in the configuration; did you mean 'path'?",
        ),
        (
            {"teachers": {"low": "x"}},
            "teachers.low is 'x' in the configuration, but it should be a group of keys such as "
            "path, dtype, attention, end_ids",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused(
    trio: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError) as raised:
        config_from_dict({k: v for k, v in (trio | changes).items() if v is not None})
    assert str(raised.value) == said


def test_several_teachers_are_written_down_and_overridden(
    trio: dict[str, Any], tmp_path: Path
) -> None:
    config = config_from_dict(trio | {"task": "arithmetic", "residency": "one"})
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
    changed = load_config(tmp_path / "again.yaml", ["teachers.high.dtype=bfloat16"])
    assert changed.teachers["high"].dtype == "bfloat16"
    assert list(changed.teachers_by_name()) == ["low", "high"]


@pytest.fixture(scope="module")
def together(trio: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of both teachers with both on the device."""
    return api.train(config_from_dict(trio), runs=tmp_path_factory.mktemp("all")).folder


def test_a_run_with_several_teachers_trains_and_names_them(
    together: Path, trio: dict[str, Any]
) -> None:
    rows = [json.loads(line) for line in (together / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 < row["train/reverse_kl"] < 5 for row in rows)
    assert [row["rollout/exponent"] > 0 for row in rows] == [True, True, False]
    card = (together / "final" / "README.md").read_text()
    low, high = (trio["teachers"][name]["path"] for name in ("low", "high"))
    assert f"| teacher | `{low}` for low, `{high}` for high |" in card
    assert f"learns from {low} (low), {high} (high) on" in (together / "report.html").read_text()
    # The second teacher's end id stays silent wherever the student is loaded.
    ends = json.loads((together / "final" / "generation_config.json").read_text())
    assert ends["suppress_tokens"] == [5]


def test_one_teacher_at_a_time_gives_the_same_bits(
    trio: dict[str, Any], together: Path, tmp_path: Path
) -> None:
    config = config_from_dict(trio | {"residency": "one"})
    with open_world(CPU) as world:
        run, student = assemble(config, tmp_path, world, lambda event: None)
        seen: list[tuple[str, str | None]] = []
        for name, teacher in run.module.teachers.items():
            assert isinstance(teacher, Guest)
            watch(teacher, name, seen)
        estimate = estimate_memory(config, student, run.module)
        rehearse(run.module, run.optimizer, config=config, estimate=estimate, world=world)
        assert {name for name, _ in seen} == {"high"}, "the largest is rehearsed"
        train_loop(run, start=0)
        moved = {n: p.detach().clone() for n, p in student.model.named_parameters()}
        del run
    assert {name for name, _ in seen} == {"low", "high"}
    assert all(name == on_stage for name, on_stage in seen), "who computes is on the device"
    whole = weights(together)
    assert all(torch.equal(moved[name], whole[name]) for name in whole)


def watch(teacher: Guest, name: str, seen: list[tuple[str, str | None]]) -> None:
    """Note who is on the stage whenever this teacher's layers compute."""
    stage: Stage = vars(teacher)["_stage"]

    def note(*_: Any) -> None:
        seen.append((name, stage.current))

    teacher.model.base_model.register_forward_pre_hook(note)


def test_the_doctor_looks_at_every_teacher(trio: dict[str, Any]) -> None:
    config = config_from_dict(trio)
    cast = load_cast(config.student, config.teachers_by_name(), None)
    prompts = config.task.prompts("train")
    checks = {check.name: check for check in examine(config, cast, prompts=prompts)}
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["tokenizers"].detail.startswith("15 ids mean the same to all 3 models")
    assert checks["teacher high prompt"].detail != checks["teacher low prompt"].detail
    counts = {p.domain: 0 for p in prompts}
    for p in prompts:
        counts[p.domain] += 1
    assert checks["domains"].detail == (
        f"prompts by teacher: low {counts['low']}, high {counts['high']}"
    )
    strange = [*prompts, prompt("1+2=", "poetry")]
    checks = {check.name: check for check in examine(config, cast, prompts=strange)}
    assert checks["domains"].status == "fail"
    assert "has domain 'poetry', but the teachers are low, high" in checks["domains"].detail
    low = [p for p in prompts if p.domain == "low"]
    checks = {check.name: check for check in examine(config, cast, prompts=low)}
    assert checks["teacher high prompt"].status == "warn"


def test_memory_counts_every_teacher_or_the_largest(trio: dict[str, Any]) -> None:
    def teachers(config: RunConfig) -> dict[str, int]:
        with open_world(CPU) as world:
            run, student = assemble(config, Path("unused"), world, lambda event: None)
            estimate = estimate_memory(config, student, run.module)
            del run
        found = [line.partition(" weights ") for line in estimate.lines]
        return {name: estimate.total for name, mark, _ in found if mark and "teacher" in name}

    both = teachers(config_from_dict(trio))
    one = teachers(config_from_dict(trio | {"residency": "one"}))
    assert list(both) == ["teacher low", "teacher high"] and list(one) == ["teacher"]
    assert one["teacher"] < both["teacher low"]
