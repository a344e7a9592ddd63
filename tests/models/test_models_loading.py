"""Loading: what comes out, and the sentence where nothing can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3NextConfig,
    T5Config,
)
from transformers.utils import logging

from tandem.models.loading import load_model, refuse_unserved
from tandem.models.settings import ModelSettings

WORDS = ["<pad>", "</s>", "a", "b", "c"]


@pytest.fixture
def saved(tmp_path: Path, make_tokenizer: Any) -> Any:
    """Save a model with a tokenizer, and return the folder as a string."""

    def save(model: PreTrainedModel) -> str:
        model.save_pretrained(tmp_path)
        make_tokenizer(WORDS).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def edit(folder: str, name: str, **changes: Any) -> None:
    path = Path(folder, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.data
def test_a_real_model_loads_quietly_in_the_dtype_asked_for(
    test_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    path = str(test_data / "models" / "stories260K" / "hf")
    model = load_model(ModelSettings(path=path, dtype="bfloat16", attention="eager"))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    assert model.model.config._attn_implementation == "eager"
    assert (model.end_ids, model.rows) == ((2,), 512)


def test_parameters_learn_only_where_trainable(saved: Any, make_model: Any) -> None:
    path = saved(make_model())
    frozen, free = (load_model(ModelSettings(path=path), trainable=t) for t in (False, True))
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert all(p.requires_grad for p in free.model.parameters())
    assert not frozen.model.training and not free.model.training


def test_end_ids_come_from_recipe_then_generation_config_then_config(
    saved: Any, make_model: Any
) -> None:
    path = saved(make_model())
    edit(path, "config.json", eos_token_id=4)
    edit(path, "generation_config.json", eos_token_id=[3, 2, 3])
    assert load_model(ModelSettings(path=path, end_ids=(2,))).end_ids == (2,)
    assert load_model(ModelSettings(path=path)).end_ids == (3, 2)
    Path(path, "generation_config.json").unlink()
    assert load_model(ModelSettings(path=path)).end_ids == (4,)


def test_a_model_without_end_id_asks_for_one_although_its_tokenizer_has_one(
    saved: Any, make_model: Any
) -> None:
    path = saved(make_model())
    edit(path, "config.json", eos_token_id=None)
    edit(path, "tokenizer_config.json", eos_token="</s>")
    Path(path, "generation_config.json").unlink()
    with pytest.raises(ValueError, match=r"names no end id .*: name its end_ids in the recipe"):
        load_model(ModelSettings(path=path))


def test_an_end_id_outside_the_head_is_refused(saved: Any, make_model: Any) -> None:
    path = saved(make_model())
    with pytest.raises(ValueError, match=r"end id 99 of model .* outside its head of 37 rows"):
        load_model(ModelSettings(path=path, end_ids=(1, 99)))


def test_absent_weights_are_an_error_and_not_random_numbers(saved: Any, make_model: Any) -> None:
    path = saved(make_model())
    weights = load_file(Path(path, "model.safetensors"))
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, Path(path, "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors .* model\.layers\.1\.mlp\.up_proj"):
        load_model(ModelSettings(path=path))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/no/such/folder", "the model folder '/no/such/folder' does not exist: check the path"),
        ("./absent", "the model folder './absent' does not exist: check the path"),
        ("tests/absent", "the model folder 'tests/absent' does not exist: check the path"),
        ("embedded:tutor", "no embedded model 'embedded:tutor': use embedded:student or embedded:"),
    ],
)
def test_a_missing_model_is_one_sentence(path: str, sentence: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ValueError) as caught:
        load_model(ModelSettings(path=path))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_had_is_one_sentence(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"cannot open model 'nobody/nothing' \(.*\): it is no "
    ) as e:
        load_model(ModelSettings(path="nobody/nothing"))
    assert "check the spelling of the hub id and the connection" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_model(ModelSettings(path=str(tmp_path)))
    assert str(caught.value).startswith(f"cannot open model '{tmp_path}' (")
    assert str(caught.value).endswith("): check the files of that folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(), "(mistral) has sliding-window attention (window 4096)"),
        (Gemma2Config(), "(gemma2) has layers of kind sliding_attention"),
        (Qwen3NextConfig(), "(qwen3_next) has layers of kind linear_attention"),
        (MambaConfig(), "(mamba) keeps a recurrent state"),
        (JambaConfig(), "(jamba)"),
        (T5Config(), "(t5) is an encoder-decoder"),
        (BloomConfig(), "(bloom) takes positions from its mask (ALiBi)"),
    ],
)
def test_architectures_the_engine_cannot_serve_are_refused_by_name(
    config: Any, reason: str
) -> None:
    with pytest.raises(ValueError) as caught:
        refuse_unserved(config, name="m")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("such as Qwen3 or Llama")


def test_a_mistral_without_a_window_is_served() -> None:
    refuse_unserved(MistralConfig(sliding_window=None), name="m")


SMALL: dict[str, Any] = {"vocab_size": 37, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_type_we_never_tested_is_served_when_it_gives_its_own_logits(
    saved: Any, attention: Any
) -> None:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SMALL)
    path = saved(GPT2LMHeadModel(config))
    assert load_model(ModelSettings(path=path, attention=attention)).rows == 37


def test_a_head_of_several_layers_is_found_out_by_its_logits(saved: Any) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(intermediate_size=16, is_decoder=True, **sizes, **SMALL)
    model = BertLMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    with pytest.raises(ValueError, match=r"\(bert\) does not give its own logits"):
        load_model(ModelSettings(path=saved(model)))


def test_positions_taken_from_elsewhere_are_found_out(saved: Any, monkeypatch: Any) -> None:
    # Bloom is refused by name above; taken off that list, its positions must still be noticed.
    monkeypatch.setattr("tandem.models.loading.ALIBI", frozenset())
    model = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL))
    with pytest.raises(ValueError, match=r"\(bloom\) does not give its own logits"):
        load_model(ModelSettings(path=saved(model), attention="eager"))
