"""Rows as they come: odd shapes refused in a sentence, data sets read through `datasets`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem.tasks.math import Math


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.jsonl", "[1, 2]\n", r'^line 1 of .*a\.jsonl is no object; write {"problem": \.\.\.}$'),
        ("a.json", '{"problem": 1', r"^.*a\.json is not JSON: .*; one object per line is \.jsonl$"),
        ("a.json", '{"problem": "x"}', r"^.*a\.json is no list of objects; write \[.*\]$"),
        ("a.parquet", "PAR0", r"^.*a\.parquet is no Parquet file; give one that is whole$"),
        (
            "a.jsonl",
            '{"problem": null, "answer": "1"}\n',
            r"^row 0 of .* holds None in its column 'problem', which is neither text nor turns",
        ),
        (
            "a.jsonl",
            '{"messages": ["x"], "answer": "1"}\n',
            r"^row 0 of .* holds \['x'\] in its column 'messages', which is neither text nor",
        ),
        (
            "a.jsonl",
            '{"messages": [{"role": "assistant", "content": "x"}], "answer": "1"}\n',
            r"which is neither text nor turns that a user takes part in; leave that row out$",
        ),
    ],
)
def test_odd_rows_are_refused_in_a_sentence(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=sentence):
        Math(train=str(tmp_path / name)).prompts("train")


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    rows = [{"problem": "a"}, {"problem": "b", "answer": "2"}]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Math(train="other.jsonl", test=str(source))
    assert [p.answer for p in task.prompts("test")] == ["", "2"]


def test_problems_that_share_an_id_keep_their_own_scores(tmp_path: Path) -> None:
    rows = [{"id": 7, "problem": t, "answer": "1"} for t in ("a", "b", "a")]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = Math(train="other.jsonl", test=str(source)).prompts("test")
    assert [(p.id, p.text) for p in prompts] == [("7", "a"), ("7:1", "b")]


def test_data_sets_are_read_by_name_and_split_and_their_absence_is_a_sentence(
    tmp_path: Path,
) -> None:
    # `datasets` opens a folder by the same call as a name on the hub.
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 60), ("test", 3)):
        table = pa.table(
            {
                "problem": [f"{split} {n}+1?" for n in range(count)],
                "answer": [n + 1 for n in range(count)],
            }
        )
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    code = (
        "import sys\n"
        "from tandem.tasks.math import Math\n"
        "folder = sys.argv[1]\n"
        "task = Math(train=folder, test=folder + '@test')\n"
        "kept = len(task.prompts('train')) + len(task.prompts('validation'))\n"
        "print(kept, [(p.text, p.answer) for p in task.prompts('test')])\n"
        "for source in (folder + '@dev', 'nobody/nothing'):\n"
        "    try:\n"
        "        Math(train=source).prompts('train')\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    # Its own process: `datasets` reads where its cache lies when it is imported.
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
    )
    counts, no_split, no_set = run.stdout.splitlines()
    assert counts == "60 [('test 0+1?', '1'), ('test 1+1?', '2'), ('test 2+1?', '3')]"
    assert '@dev\' cannot be loaded (Unknown split "dev"' in no_split
    assert no_set.startswith("the data set 'nobody/nothing' cannot be loaded (")
    assert no_set.endswith("; check the name, or give a file ending in .jsonl, .json, .parquet")


def test_conversations_that_end_with_the_same_words_are_different_problems(tmp_path: Path) -> None:
    def asked(first: str) -> str:
        turns = [("user", first), ("assistant", "Fine."), ("user", "And its square?")]
        messages = [{"role": role, "content": content} for role, content in turns]
        return json.dumps({"messages": messages, "answer": "1"}) + "\n"

    (tmp_path / "a.jsonl").write_text(asked("Take 1.") + asked("Take 2.") + asked("Take 1."))
    loaded = Math(train="unused", test=str(tmp_path / "a.jsonl")).load("test")
    assert [p.messages[0]["content"] for p in loaded.prompts] == ["Take 1.", "Take 2."]
    assert loaded.notes == ("1 repeated problems left out",)
