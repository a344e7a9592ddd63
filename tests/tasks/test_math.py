"""The math task: columns of every shape, splits, and the sentences for bad data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.tasks.columns import gold, said, turns
from tandem.tasks.math import Math


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def test_gold_is_read_from_the_three_usual_spellings() -> None:
    assert gold(72) == "72"
    assert gold("48/2 = 24 ... \n#### 72") == "72"
    assert gold(r"so \boxed{1} and then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert gold(None) == ""


def test_turns_end_with_the_user_and_leave_the_system_out() -> None:
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert turns(chat) == ({"role": "user", "content": "a"},)
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert turns(shared) == turns(chat)
    assert turns("a") == turns(chat)


def test_a_completion_is_the_text_or_what_the_assistant_says_last() -> None:
    assert said("so 2") == "so 2"
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    assert said(chat) == "d"
    assert said(chat[:3]) == "", "the last question has no answer"
    assert said([{"role": "assistant", "content": "alone"}]) == "alone"
    assert said([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]) == "b"
    assert said(None) == said(7) == said([]) == said(["x"]) == ""


@pytest.mark.parametrize("column", ["completion", "response", "generation"])
def test_completions_and_domains_are_read_where_there_are_any(column: str, tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", column: f"so {n + 1}", "domain": "sums"} for n in range(40)]
    del rows[3][column], rows[3]["domain"]
    source = write(tmp_path / "a.jsonl", rows)
    (first, second, third, fourth, *_), _ = Math(train=source)._distinct(source, graded=False)
    assert (first.completion, third.completion, fourth.completion) == ("so 1", "so 3", "")
    assert (second.domain, fourth.domain) == ("sums", "")


def test_rows_of_messages_and_of_text_give_the_same_prompts(tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    chat = write(
        tmp_path / "b.jsonl",
        [{"messages": [{"role": "user", "content": "1+1?"}], "answer": "2"}],
    )
    (left,), _ = Math(train=text)._distinct(text, graded=True)
    (right,), _ = Math(train=chat)._distinct(chat, graded=True)
    assert left.messages == right.messages == ({"role": "user", "content": "1+1?"},)
    assert left.answer == right.answer == "2"


def test_training_problems_of_other_splits_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(40)]
    train = write(tmp_path / "train.jsonl", rows + rows[:3])
    test = write(tmp_path / "test.jsonl", rows[:10])
    validation = write(tmp_path / "validation.jsonl", rows[10:12])
    loaded = Math(train=train, test=test, validation=validation).load("train")
    assert [p.text for p in loaded.prompts] == [row["problem"] for row in rows[12:]]
    assert loaded.notes == (
        "3 repeated problems left out",
        "12 training problems left out that stand in another split",
    )


def test_held_out_problems_do_not_move_when_the_file_grows(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(400)]
    small = Math(train=write(tmp_path / "small.jsonl", rows[:200]))
    large = Math(train=write(tmp_path / "large.jsonl", rows))
    for split in ("train", "validation", "test"):
        few, many = ({p.text for p in t.prompts(split)} for t in (small, large))
        assert few < many
    parts = [{p.text for p in large.prompts(s)} for s in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 400


def test_unusual_line_separators_inside_a_problem_do_not_end_its_row(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"problem": "a\u2028b\x85c", "answer": "1"}])
    assert Math(train=source)._distinct(source, graded=True)[0][0].text == "a\u2028b\x85c"


def test_prompts_without_answers_can_be_trained_on_but_not_graded(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": f"{n}?"}]} for n in range(60)]
    task = Math(train=write(tmp_path / "a.jsonl", rows))
    prompts = task.prompts("train")
    assert prompts and all(not p.answer for p in prompts)
    with pytest.raises(ValueError, match="none of the answer columns answer, final_answer"):
        task.prompts("test")
    with pytest.raises(ValueError, match="has no answer to grade by; name the answer_column"):
        task.grade(prompts[0], r"\boxed{1}")


def test_bad_data_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no data file 'nowhere.jsonl'; give a path or the name"):
        Math(train="nowhere.jsonl").prompts("train")
    with pytest.raises(ValueError, match=r"holds no rows; give a file with one problem per row$"):
        Math(train=write(tmp_path / "empty.jsonl", [])).prompts("train")
    odd = write(tmp_path / "odd.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(ValueError, match=r"none of the prompt columns .* its own: text, label$"):
        Math(train=odd).prompts("train")
    with pytest.raises(ValueError, match=r"no prompt column 'txt'; its columns are text, label$"):
        Math(train=odd, prompt_column="txt").prompts("train")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"problem": "a", "answer": "b"}\n{"problem": \n')
    with pytest.raises(ValueError, match=r"^line 2 of .*broken.jsonl is not JSON: "):
        Math(train=str(broken)).prompts("train")
    with pytest.raises(ValueError, match="two splits name the same source"):
        Math(train="a.jsonl", test="a.jsonl")


@pytest.mark.data
def test_real_sets_load(test_data: Path) -> None:
    folder = test_data
    task = Math(
        train=str(folder / "math_train_12k" / "problems.jsonl"),
        test=str(folder / "math500" / "problems.jsonl"),
    )
    assert len(task.prompts("test")) == 500
    test = {p.text for p in task.prompts("test")}
    assert test.isdisjoint(p.text for p in task.prompts("train"))
    dapo = Math(
        train=str(folder / "dapo_math_17k" / "dapo-math-17k.parquet"),
        answer_column="reward_model.ground_truth",
    )
    assert len(dapo.prompts("train")) == 15_628
    assert dapo.load("train").notes == ("519 repeated problems left out",)
    assert dapo.prompts("train")[0].answer == "34"


def test_a_column_of_conversations_holds_prompts_and_completions(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "so 2"}]
    source = write(tmp_path / "a.jsonl", [{"conversations": talk, "about": {"topic": "sums"}}])
    task = Math(train=source, completion_column="conversations", domain_column="about.topic")
    (prompt,), _ = task._distinct(source, graded=False)
    assert (prompt.text, prompt.completion, prompt.domain) == ("1+1?", "so 2", "sums")
    plain, _ = Math(train=source)._distinct(source, graded=False)
    assert (plain[0].completion, plain[0].domain) == ("", "")


def test_only_the_training_source_has_to_have_a_named_completion_column(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]
    told = [row | {"written": "so"} for row in rows]
    train, test = write(tmp_path / "a.jsonl", told), write(tmp_path / "b.jsonl", rows[:1])
    task = Math(train=train, test=test, completion_column="written")
    assert [p.completion for p in task.prompts("test")] == [""]
    with pytest.raises(ValueError) as caught:
        Math(train=test, completion_column="written").prompts("train")
    assert str(caught.value) == (
        f"{test} has no completion column 'written'; its columns are problem, answer"
    )
