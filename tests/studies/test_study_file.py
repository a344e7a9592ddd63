"""What a study file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.studies.study_cases import small_study, write_study

from tandem.studies.study_file import load_study


def _set(place: str, value: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        *groups, last = place.split("/")
        inner: Any = data
        for name in groups:
            inner = inner[int(name) if isinstance(inner, list) else name]
        inner[last] = value

    return change


def test_a_sweep_of_lists_is_their_product_and_a_list_stands_as_it_is(tmp_path: Path) -> None:
    lists = {"optimizer.lr": [1, 2], "behaviour.budget": [3, 4]}
    study = small_study(tmp_path, _set("rows/trb/sweep", lists))
    assert study.file.rows["trb"].sweep == (
        {"optimizer.lr": 1, "behaviour.budget": 3},
        {"optimizer.lr": 1, "behaviour.budget": 4},
        {"optimizer.lr": 2, "behaviour.budget": 3},
        {"optimizer.lr": 2, "behaviour.budget": 4},
    )
    stands = [{"optimizer.lr": 1}, {"behaviour.budget": 3}]
    study = small_study(tmp_path, _set("rows/trb/sweep", stands))
    assert list(study.file.rows["trb"].sweep) == stands


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    study = small_study(tmp_path, overrides=["seeds.reporting=[3]", "judging.problems=2"])
    assert study.file.seeds.reporting == (3,)
    assert study.file.judging.problems == 2


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("seeds/reporting", [0, 7], "seeds: seed 7 both tunes and reports; report on seeds that"),
        ("seeds/reporting", [0, 0], r"seeds.reporting: the seeds are \[0, 0\], and one of them st"),
        ("seeds/reporting", [], "seeds.reporting"),
        ("seeds/reporting", [-1], r"seeds.reporting: the seeds are \[-1\]: give numbers from 0"),
        ("seeds/tuning", [], "row 'opd' has settings to choose from, but there are no seeds to"),
        ("rows/trb/sweep", {"optimizer.lr": 1}, "rows.trb.sweep: the values of optimizer.lr are 1"),
        ("rows/trb/sweep", [], "rows.trb.sweep: the sweep has no settings: leave it out"),
        ("rows/trb/sweep", [{"seed": 1}, {"seed": 1}], r"the sweep holds \{'seed': 1\} twice"),
        ("rows/trb/swep", [], "unknown key 'rows.trb.swep' in .*small.yaml; did you mean 'sweep'"),
        ("baseline", "odp", "baseline is 'odp', which is no row; did you mean 'opd'"),
        ("hypotheses/0/row", "trp", "hypotheses.0.row is 'trp', which is no row; did you mean"),
        ("hypotheses/0/than", "trb", "hypotheses.0 compares 'trb' with itself"),
        ("hypotheses", [], "hypotheses"),
        ("name", "../x", "'../x' names a folder: use letters, digits"),
        ("axes", {"a": {"rows": ["x"], "values": {"v": {}}}}, "axes.a.rows is 'x', which is no ro"),
    ],
)
def test_mistakes_are_told_in_a_sentence(place: str, value: Any, said: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, _set(place, value))
    with pytest.raises(ValueError, match=said):
        load_study(path)


def test_rows_of_one_title_and_places_of_one_folder_are_refused(tmp_path: Path) -> None:
    def alike(data: dict[str, Any]) -> None:
        data["rows"]["trb"]["title"] = "vanilla OPD"

    with pytest.raises(ValueError, match="two rows are called 'vanilla OPD' in tables"):
        small_study(tmp_path, alike)

    def colliding(data: dict[str, Any]) -> None:
        low, high = ({"behaviour.budget": budget} for budget in (0.3, 0.4))
        data["axes"] = {
            "a": {"rows": ["trb"], "values": {"b-c": low}},
            "a-b": {"rows": ["trb"], "values": {"c": high}},
        }

    with pytest.raises(ValueError, match="two values of axes would share the folder a-b-c"):
        small_study(tmp_path, colliding)


def test_tuning_runs_are_settings_times_seeds_and_none_without_a_choice(tmp_path: Path) -> None:
    file = small_study(tmp_path, lambda data: data["rows"]["trb"].pop("sweep")).file
    assert (file.tuning_runs("opd"), file.tuning_runs("trb")) == (4, 0)
