"""Base models from elsewhere: adapters, quantised and incomplete checkpoints, layers, folders that are moved."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import peft
import pytest
import torch
from test_loading import FULL, LORA, QLORA, adapted, commit_to_hub_cache, logits
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.utils import hub

from clone import TINY
from glore_lib.method import reward_models, students
from glore_lib.models import launch, loading
from glore_lib.models.loading import adapt, check_base, load_model
from glore_lib.models.tokens import load_tokenizer
from glore_lib.params import ROOT, ParamsError, load_params
from tiny import frame, open_tiny, sample_rows


def save_foreign_adapter(base: Path, folder: Path, **options) -> torch.Tensor:
    """Save an adapter as peft does, without anything else; return the logits of the model with it."""
    torch.manual_seed(3)
    settings = {"r": 4, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False} | options
    model = peft.get_peft_model(load_model(str(base), "float32"), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    model.save_pretrained(folder)
    assert not (folder / "config.json").exists()
    return logits(model)


def set_config(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- adapters of another library ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}],
    ids=["lora", "rslora", "dora", "bias", "layers trained in full"],
)  # fmt: skip
def test_an_adapter_is_merged_into_its_base(options, tiny_base, tmp_path, reliability):
    expected = save_foreign_adapter(tiny_base, tmp_path / "adapter", **options)
    run = open_tiny(tmp_path / "adapter", tmp_path / "artifacts")
    assert Path(run.base, "model.safetensors").exists() and not Path(run.base, "adapter_config.json").exists()
    torch.testing.assert_close(logits(run.load(None)), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(load_model(str(tiny_base), "float32"))).abs().max() > 0.1
    reliability("base model: a LoRA adapter", "merged into its base first")


@pytest.mark.parametrize("finetuning", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
def test_fine_tuning_starts_from_the_merged_model(finetuning, wide_base, tmp_path):
    save_foreign_adapter(wide_base, tmp_path / "adapter")
    merged = peft.PeftModel.from_pretrained(load_model(str(wide_base), "float32"), tmp_path / "adapter")
    expected = logits(adapt(merged.merge_and_unload(), finetuning, 0))  # new adapters add nothing yet
    run = open_tiny(tmp_path / "adapter", tmp_path / "artifacts")
    torch.testing.assert_close(logits(adapt(run.load(None), finetuning, 0)), expected, rtol=1e-4, atol=1e-4)


def test_the_tokenizer_is_the_adapters_if_it_has_one(tiny_base, tmp_path):
    save_foreign_adapter(tiny_base, tmp_path / "adapter")
    assert (
        open_tiny(tmp_path / "adapter", tmp_path / "a").tokenizer.eos_token == load_tokenizer(str(tiny_base)).eos_token
    )
    own = load_tokenizer(str(tiny_base))
    own.eos_token = own.bos_token
    own.save_pretrained(tmp_path / "adapter")
    assert open_tiny(tmp_path / "adapter", tmp_path / "b").tokenizer.eos_token == own.bos_token


def test_an_adapters_key_holds_its_content_and_its_bases_and_no_place(tiny_base, tmp_path):
    """The base is named relative to the adapter, and both are moved together."""
    shutil.copytree(tiny_base, tmp_path / "one" / "base")
    save_foreign_adapter(tiny_base, tmp_path / "one" / "adapter")
    set_config(tmp_path / "one" / "adapter", base_model_name_or_path="../base")
    first = open_tiny(tmp_path / "one" / "adapter", tmp_path / "artifacts")
    shutil.move(tmp_path / "one", tmp_path / "two")
    moved = open_tiny(tmp_path / "two" / "adapter", tmp_path / "artifacts")
    assert (moved.base, moved.base_key) == (first.base, first.base_key)
    (tmp_path / "two" / "base" / "generation_config.json").write_text("{}")
    assert open_tiny(tmp_path / "two" / "adapter", tmp_path / "artifacts").base != first.base


def test_an_adapter_on_an_adapter_is_merged_after_it(tiny_base, tmp_path):
    save_foreign_adapter(tiny_base, tmp_path / "a")
    run = open_tiny(tmp_path / "a", tmp_path / "artifacts")
    expected = save_foreign_adapter(Path(run.base), tmp_path / "b")
    set_config(tmp_path / "b", base_model_name_or_path=str(tmp_path / "a"))
    again = open_tiny(tmp_path / "b", tmp_path / "artifacts")
    torch.testing.assert_close(logits(again.load(None)), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_on_the_hub_is_merged_at_its_commit(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    expected = save_foreign_adapter(tiny_base, tmp_path / "adapter")
    commit_to_hub_cache(tmp_path / "cache", "a" * 40, tmp_path / "adapter")
    run = open_tiny(Path("org/name"), tmp_path / "artifacts")
    torch.testing.assert_close(logits(run.load(None)), expected, rtol=1e-4, atol=1e-4)
    record = json.loads(Path(run.base, "artifact.json").read_text())
    assert record["key"]["adapter"] == {"source": "org/name", "commit": "a" * 40}


def spoil_base(adapter: Path, base: Path) -> None:
    set_config(adapter, base_model_name_or_path="./nowhere")


def spoil_name(adapter: Path, base: Path) -> None:
    set_config(adapter, base_model_name_or_path=None)


def spoil_json(adapter: Path, base: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")


def spoil_format(adapter: Path, base: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def spoil_layers(adapter: Path, base: Path) -> None:
    """Train it on a model with one more layer, whose weights peft would leave out without a word."""
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers += 1
    AutoModelForCausalLM.from_config(config).save_pretrained(adapter.with_name("deeper"))
    save_foreign_adapter(adapter.with_name("deeper"), adapter)
    set_config(adapter, base_model_name_or_path=str(base))


def spoil_width(adapter: Path, base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    config.hidden_size *= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(adapter.with_name("wider"))
    save_foreign_adapter(adapter.with_name("wider"), adapter)
    set_config(adapter, base_model_name_or_path=str(base))


def spoil_kind(adapter: Path, base: Path) -> None:
    shutil.rmtree(adapter)
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    peft.get_peft_model(load_model(str(base), "float32"), prompt).save_pretrained(adapter)


def spoil_ends(adapter: Path, base: Path, **options) -> None:
    """Train one of two ends that share their weights: merged, the other would change too."""
    config = AutoConfig.from_pretrained(base)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(adapter.with_name("tied"))
    save_foreign_adapter(adapter.with_name("tied"), adapter, **(options or {"target_modules": ["embed_tokens"]}))


def spoil_head(adapter: Path, base: Path) -> None:
    spoil_ends(adapter, base, modules_to_save=["lm_head"])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_base, r"adapter on the model in '\./nowhere', and there is no such folder; set base_model_name_or_path"),
        (spoil_name, "adapter_config.json must name its base model in base_model_name_or_path"),
        (spoil_json, "adapter_config.json must name its base model in base_model_name_or_path"),
        (spoil_format, r"adapter_model\.safetensors"),
        (spoil_layers, "can't be merged into .*4 weights are in one of the two only, such as .*layers.2"),
        (spoil_width, "can't be merged into .*size mismatch"),
        (spoil_ends, r"can't be merged into .*\(it changes either the input or the output embeddings, which are the"),
        (spoil_head, r"can't be merged into .*\(it changes either the input or the output embeddings, which are the"),
        (spoil_kind, "can't be merged into .*name an adapter in peft's format, such as LoRA, of this model"),
    ],
)
def test_an_adapter_that_cant_be_merged_is_refused_in_one_line(spoil, told, tiny_base, tmp_path, reliability):
    save_foreign_adapter(tiny_base, tmp_path / "adapter")
    spoil(tmp_path / "adapter", tiny_base)
    with pytest.raises(ParamsError, match=rf"^base_model\.source = .*{told}") as error:
        open_tiny(tmp_path / "adapter", tmp_path / "artifacts")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "artifacts").glob("merged*"))
    reliability(
        "base model: an adapter without a base, in pickled weights, or that does not fit", "rejected in one line"
    )


# --- weights ------------------------------------------------------------------------------------------------------


def test_a_quantised_checkpoint_is_refused_in_one_line(wide_base, tmp_path, reliability):
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(wide_base, quantization_config=four_bits, device_map="cpu")
    model.save_pretrained(tmp_path / "four")
    load_tokenizer(str(wide_base)).save_pretrained(tmp_path / "four")
    told = r"^base_model\.source = .*four': its weights are quantised \(bitsandbytes\).*name the original model.*$"
    for method in ("full", "lora"):
        with pytest.raises(ParamsError, match=told):
            open_tiny(tmp_path / "four", tmp_path / "artifacts", finetuning__method=method)
    with pytest.raises(ParamsError, match=told):
        load_model(str(tmp_path / "four"), "float32")
    save_foreign_adapter(wide_base, tmp_path / "adapter")
    set_config(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "four"))
    with pytest.raises(ParamsError, match=told):
        open_tiny(tmp_path / "adapter", tmp_path / "artifacts")
    reliability("base model: quantised weights", "rejected in one line", tried=4)


def test_the_remedy_for_a_quantised_checkpoint_works(wide_base, tmp_path):
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(wide_base, quantization_config=four_bits, device_map="cpu")
    model.dequantize().save_pretrained(tmp_path / "whole")
    load_tokenizer(str(wide_base)).save_pretrained(tmp_path / "whole")
    assert open_tiny(tmp_path / "whole", tmp_path / "artifacts").load(None).num_parameters()


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "torchao"])
def test_every_kind_of_quantisation_is_known_from_the_configuration(method, tiny_base, tmp_path, reliability):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(ParamsError, match=rf"its weights are quantised \({method}\)"):
        check_base(str(folder), FULL)
    reliability("base model: quantised weights", "rejected in one line")


def test_a_checkpoint_that_lacks_weights_is_refused_in_one_line(tiny_base, tmp_path, reliability):
    """Transformers would fill them with random numbers, and training would go on."""
    AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1).save_pretrained(tmp_path / "judge")
    told = (
        r"^base_model\.source = .*judge': its files lack 1 weights of LlamaForCausalLM, such as lm_head\.weight; name"
    )
    with pytest.raises(ParamsError, match=told):
        load_model(str(tmp_path / "judge"), "float32")
    reliability("base model: a checkpoint without some of its weights", "rejected in one line")


# --- layers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2_base(tiny_base, tmp_path_factory) -> Path:
    """Save a tiny GPT-2, whose layers are Conv1D and whose embeddings are tied."""
    folder = tmp_path_factory.mktemp("gpt2") / "base"
    tokenizer = load_tokenizer(str(tiny_base))
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=384, n_embd=32, n_layer=1, n_head=2, **ids)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("base", "method", "targets", "told"),
    [
        ("tiny_base", "lora", ["q_porj"], r"finetuning\.lora_targets = 'q_porj': the model has no such layer; its "
         "layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
        ("tiny_base", "qlora", ["q_proj", "c_attn"], r"finetuning\.lora_targets = 'c_attn': the model has no such"),
        ("tiny_base", "lora", ["q_proj", "mlp"], r"finetuning\.lora_targets = 'mlp': no adapter fits LlamaMLP; its"),
        ("tiny_base", "lora", ["proj"], r"finetuning\.lora_targets = 'proj': the model has no such layer"),
        ("gpt2_base", "lora", ["q_proj"], "no such layer; its layers are c_attn, c_proj, c_fc$"),
        ("gpt2_base", "lora", ["c_attn", "lm_head"], "'lm_head': the model's input and output embeddings are the same"),
        ("gpt2_base", "qlora", ["c_attn"], r"finetuning\.method = 'qlora': quantises linear layers, and this model has "
         "Conv1D instead; set it to lora"),
    ],
)  # fmt: skip
def test_lora_targets_are_checked_when_a_run_opens(
    base, method, targets, told, request, tmp_path, monkeypatch, reliability
):
    folder = request.getfixturevalue(base)
    monkeypatch.setattr(loading, "load_model", None)  # no weights are loaded
    with pytest.raises(ParamsError, match=told):
        open_tiny(folder, tmp_path / "artifacts", finetuning__method=method, finetuning__lora_targets=targets)
    reliability("finetuning.lora_targets that fit no layer, QLoRA without linear layers", "rejected in one line")


def test_layers_that_can_be_adapted_are_accepted(tiny_base, gpt2_base):
    for base, targets in ((tiny_base, ["q_proj", "embed_tokens", "lm_head"]), (gpt2_base, ["c_attn", "mlp.c_proj"])):
        finetuning = LORA.model_copy(update={"lora_targets": targets})
        check_base(str(base), finetuning)
        trained = [name for name, p in adapted(base, finetuning).named_parameters() if p.requires_grad]
        assert all(any(f".{target}." in name for name in trained) for target in targets)
    check_base(str(gpt2_base), FULL)


def test_targets_are_not_an_empty_list(reliability):
    with pytest.raises(ParamsError, match=r"finetuning\.lora_targets = \[\]: must be a list of texts, not empty"):
        load_params(TINY, {"finetuning.lora_targets": []})
    reliability("finetuning.lora_targets that fit no layer, QLoRA without linear layers", "rejected in one line")


# --- folders ------------------------------------------------------------------------------------------------------


def stages(run) -> dict[str, tuple[str, torch.Tensor]]:
    """Train a student on the base, one on that student, and reward models on both; return ids and outputs."""
    student = students.sft_student(run)
    questions = list(run.questions("train").values())
    samples = frame(run, "samples", sample_rows(*((q.question_id, q.reference_solution, True) for q in questions)))
    data = reward_models.RewardModelData(samples, lambda: samples)
    made = {}
    for start in ("base", "student"):
        settings = run.params.reward_models.model_copy(update={"start": start})
        run.params = run.params.model_copy(update={"reward_models": settings})
        orm = reward_models.train_reward_model(run, "orm", student, data, settings.training)
        scores = reward_models.score_steps(run, orm, "orm", samples.read(), "train", samples)
        made[start] = orm.id, torch.tensor(scores.read()["score"])
    return made | {"policy": (student.model.id, logits(run.load(student.model)))}


def test_artifacts_and_their_base_can_be_moved(tiny_base, tmp_path, monkeypatch, reliability):
    """The base lies outside the artifacts, and each goes to another place."""
    shutil.copytree(tiny_base, tmp_path / "models" / "base")
    monkeypatch.setattr("tiny._numbers", iter([0, 0]))
    before = stages(open_tiny(tmp_path / "models" / "base", tmp_path / "artifacts", finetuning__method="lora"))
    (tmp_path / "other" / "disk").mkdir(parents=True)
    shutil.move(tmp_path / "models" / "base", tmp_path / "other" / "renamed")
    shutil.move(tmp_path / "artifacts", tmp_path / "other" / "disk" / "artifacts")
    monkeypatch.setattr(launch, "fit", None)  # nothing is trained again
    store = tmp_path / "other" / "disk" / "artifacts"
    after = stages(open_tiny(tmp_path / "other" / "renamed", store, finetuning__method="lora"))
    for name, (id, output) in before.items():
        assert after[name][0] == id
        torch.testing.assert_close(after[name][1], output)
    reliability("artifacts and their base model are moved to other folders", "found and loaded, no key changes")


def test_without_its_run_an_adapter_names_the_model_that_is_missing(tiny_base, tmp_path, reliability):
    shutil.copytree(tiny_base, tmp_path / "base")
    run = open_tiny(tmp_path / "base", tmp_path / "artifacts", finetuning__method="lora")
    student = students.sft_student(run).model
    shutil.move(tmp_path / "base", tmp_path / "moved")
    told = rf"^{student.folder}/start\.json: this adapter was trained on the model in {tmp_path}/base, and there is no"
    with pytest.raises(ParamsError, match=told):
        load_model(str(student.folder), "float32")
    reliability("an adapter without the model it was trained on", "rejected in one line that names both")


def test_two_spellings_of_a_folder_are_one_run(tiny_base, tmp_path, monkeypatch, reliability):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_base, tmp_path / "models" / "x")
    (tmp_path / "link").symlink_to(tmp_path / "models")
    found = []
    for source in (
        "./models/x",
        "models/x",
        "models//x/",
        "models/../models/x",
        "~/models/x",
        "link/x",
        f"{tmp_path}/link/x",
    ):
        params = load_params(TINY, {"base_model.source": source})
        assert params.base_model.location == str((tmp_path / "models" / "x").resolve())
        found.append((params.base_model.source, params.digest()))
        reliability("base_model.source: a folder in another spelling", "the same keys and hashes")
    assert len(set(found)) == 1
    assert found[0][0].startswith("./")
    # Notebooks run in the clone.
    monkeypatch.chdir(ROOT)
    assert load_params(TINY, {"base_model.source": found[0][0]}).digest() == found[0][1]


def test_names_are_not_folders(tiny_base, tmp_path, monkeypatch):
    """A folder that is called like a model of the package is one only when it is written as a path."""
    monkeypatch.chdir(tmp_path)
    for name in ("scratch", "mini-base", "smollm2-135m"):
        (tmp_path / name).mkdir()
        assert load_params(TINY, {"base_model.source": name}).base_model.location == name
        assert load_params(TINY, {"base_model.source": f"./{name}"}).base_model.location == str(tmp_path / name)
    for name in ("org/name", f"org/name@{'a' * 40}", "gpt2"):
        assert load_params(TINY, {"base_model.source": name}).base_model.source == name


@pytest.mark.parametrize("source", ["./none", "~/none", "/none/at/all", "a/b/c", "none/../none", "\0/x/y"])
def test_a_path_that_is_no_folder_is_never_sent_to_the_hub(source, tiny_base, tmp_path, monkeypatch, reliability):
    monkeypatch.setattr(loading, "cached_file", None)
    with pytest.raises(ParamsError, match=r"^base_model\.source = .*: no such folder"):
        open_tiny(tiny_base, tmp_path / "artifacts", base_model__source=source)
    reliability("base_model.source: a path without a folder", "rejected in one line, the hub is not asked")


def test_a_name_that_may_be_a_path_is_explained_as_both(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ParamsError, match=r"^base_model\.source = 'models/x': no model there .*, and no such folder; name"
    ):
        open_tiny(Path("models/x"), tmp_path / "artifacts")
