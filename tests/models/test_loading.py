"""Tokenisation is the same everywhere; saved models reload with equal logits and scores; hub models stay pinned."""

import copy
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import bitsandbytes
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils, hub

from glore_lib.method.reward_models import SCORED
from glore_lib.models.loading import (
    adapt,
    base_and_adapters,
    fingerprint,
    load_model,
    pin,
    save_model,
)
from glore_lib.models.prefix_tree import collate
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.models.tokens import encode, load_tokenizer
from glore_lib.params import Finetuning, ParamsError
from glore_lib.solutions import prefix_text, split_steps
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import open_tiny

LORA = Finetuning(method="lora", lora_rank=4, batch_size=8, micro_batch_size=8, max_length=256)
FULL = Finetuning(method="full", batch_size=8, micro_batch_size=8, max_length=256)
QLORA = LORA.model_copy(update={"method": "qlora"})
QLORA_SINGLE = QLORA.model_copy(update={"double_quantisation": False})
NF4 = torch.tensor(  # Dettmers et al. 2023, appendix E
    [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
     0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
)  # fmt: skip
CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
IDS = torch.arange(3, 43).reshape(2, 20)
QUESTIONS = Arithmetic("hard").questions("train", 20, 0)


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer whose merges span spaces, steps and newlines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([q.question + "\n" + q.reference_solution + "\n" for q in QUESTIONS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="module")
def chat_base(llama2_base, llama2_tokenizer, tmp_path_factory) -> Path:
    """Save a model with a chat template that starts with the token that the tokenizer also puts before plain text."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(llama2_base, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture(scope="module")
def chat_tokenizer(chat_base) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(chat_base), chat_template=True)


@pytest.fixture(params=["tokenizer", "merging_tokenizer", "llama2_tokenizer", "chat_tokenizer"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


def test_a_prefixs_tokens_are_a_prefix_of_the_solutions_tokens(any_tokenizer):
    for q in QUESTIONS:
        prompt, steps = q.question + "\n", split_steps(q.reference_solution)
        whole = encode(any_tokenizer, prompt, steps)
        for i in range(len(steps) + 1):
            prefix = encode(any_tokenizer, prompt, steps[:i])
            assert prefix.ids == whole.ids[: len(prefix.ids)]
            assert prefix.step_ends == whole.step_ends[:i]
            assert prefix.prompt_length == whole.prompt_length


def test_every_step_ends_with_its_newline_token(any_tokenizer):
    for q in QUESTIONS:
        steps = split_steps(q.reference_solution)
        encoded = encode(any_tokenizer, q.question + "\n", steps)
        starts = [encoded.prompt_length, *(end + 1 for end in encoded.step_ends)]
        texts = [any_tokenizer.decode(encoded.ids[a : b + 1]) for a, b in zip(starts, encoded.step_ends, strict=False)]
        assert texts == [f"{step}\n" for step in steps]
        assert all(any_tokenizer.decode([encoded.ids[end]]).endswith("\n") for end in encoded.step_ends)
        assert encoded.step_ends[-1] == len(encoded.ids) - 1


def test_the_merging_tokenizer_would_break_joined_text(merging_tokenizer):
    """Show that the two tests above can fail."""
    joined = [merging_tokenizer(prefix_text(split_steps(q.reference_solution), 9)).input_ids for q in QUESTIONS]
    alone = [encode(merging_tokenizer, "", split_steps(q.reference_solution)).ids for q in QUESTIONS]
    assert joined != alone


def test_tokens_are_text_again(tokenizer):
    q = QUESTIONS[0]
    ids = encode(tokenizer, q.question + "\n", split_steps(q.reference_solution)).ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{q.question}\n{q.reference_solution}\n"


def test_a_tokenizer_without_pad_token_pads_with_its_end(llama2_base):
    assert PreTrainedTokenizerFast.from_pretrained(llama2_base).pad_token is None
    assert load_tokenizer(str(llama2_base)).pad_token == "</s>"


def test_a_chats_prompt_is_a_users_message_and_the_steps_are_the_reply(chat_tokenizer, llama2_tokenizer):
    steps = ["1 + 1 = 2", "#### 2"]
    encoded = encode(chat_tokenizer, "Question: how many?\nAnswer:\n", steps)
    prompt, reply = encoded.ids[: encoded.prompt_length], encoded.ids[encoded.prompt_length :]
    assert chat_tokenizer.decode(prompt) == "<s> <user> Question: how many?\nAnswer:\n<assistant>"
    assert prompt.count(chat_tokenizer.bos_token_id) == 1
    assert reply == [i for s in steps for i in llama2_tokenizer(f"{s}\n", add_special_tokens=False).input_ids]


def test_a_chat_template_is_used_only_where_a_run_says_so(chat_base, llama2_tokenizer, tmp_path):
    chat, plain = (open_tiny(chat_base, tmp_path, base_model__chat_template=value).tokenizer for value in (True, False))
    assert encode(plain, "tom has\n") == encode(llama2_tokenizer, "tom has\n")
    assert chat.decode(encode(chat, "tom has\n").ids) == "<s> <user> tom has\n<assistant>"


def test_a_missing_chat_template_is_reported_in_one_line(tiny_base):
    with pytest.raises(ParamsError, match=r"^base_model\.chat_template = true: .* has no chat template; set it .*$"):
        load_tokenizer(str(tiny_base), chat_template=True)


TODAY = "{{ strftime_now('%d %b %Y') }}\n{{ messages[0].content }}"
# Llama 3's template: its default date applies only where neither a date nor a clock is given.
LLAMA_3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '01 Jan 1970' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }}\n{{ messages[0].content }}"
)


@pytest.mark.parametrize("template", [TODAY, LLAMA_3, "{{ date_string }} {{ messages[0].content }}"])
def test_a_template_that_inserts_todays_date_gives_the_same_prompt_every_day(template, merging_tokenizer, monkeypatch):
    tokenizer = copy.deepcopy(merging_tokenizer)
    tokenizer.chat_template = template
    prompts = []
    for day in (1, 2):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2031, 5, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        prompts.append(tokenizer.decode(encode(tokenizer, "how many ?").ids))
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "how many ?"}], tokenize=False)
        assert (f"{day:02d} May 2031" in rendered) == ("strftime_now" in template)  # the clock is what would be used
    assert prompts[0] == prompts[1]
    assert "26 Jul 2024" in prompts[0]


@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "config.json", "generation_config.json", "adapter_config.json", "adapter_model.safetensors",
     "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
     "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/tools.jinja",
     "model.safetensors.index.json", "qwen.tiktoken", "model.gguf"],
)  # fmt: skip
def test_every_file_that_a_model_reads_is_in_its_fingerprint(file, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    found = [fingerprint(str(tmp_path))]
    for content in ("1", "2"):
        path.write_text(content)
        found.append(fingerprint(str(tmp_path)))
    path.unlink()
    assert found[0] == fingerprint(str(tmp_path)) == {"files": {}}
    assert found[1] != found[2]
    assert list(found[1]["files"]) == [file]


@pytest.mark.parametrize("file", ["README.md", "LICENSE.txt", "LICENSE", "artifact.json", "optimizer.pt", "lock"])
def test_a_file_that_no_model_reads_is_not_in_its_fingerprint(file, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    before = fingerprint(str(folder))
    (folder / file).write_text("changed")
    assert fingerprint(str(folder)) == before
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(before["files"])


def test_an_adapters_fingerprint_holds_the_model_it_was_trained_on(tiny_base, tokenizer, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    save_adapter(folder, tmp_path / "a", tokenizer)
    before = fingerprint(str(tmp_path / "a"))
    assert before["start"] == fingerprint(str(folder))
    (folder / "generation_config.json").write_text("{}")
    assert fingerprint(str(tmp_path / "a"))["start"] == fingerprint(str(folder)) != before["start"]


def commit_to_hub_cache(cache: Path, commit: str, model: Path) -> None:
    """Add a commit of org/name to a hub cache, and let its main branch point to it."""
    repository = cache / "models--org--name"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_a_hub_model_is_pinned_to_the_commit_of_today(tiny_base, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    old, new = "a" * 40, "b" * 40
    commit_to_hub_cache(tmp_path / "cache", old, tiny_base)
    pinned = pin("org/name")
    assert pinned == pin(pinned) == f"org/name@{old}"
    assert fingerprint(pinned) == {"source": "org/name", "commit": old}
    before = logits(load_model(pinned, "float32"))
    model = load_model(str(tiny_base), "float32")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    save_model(model, tokenizer, str(tiny_base), tmp_path / "moved")
    save_adapter(pinned, tmp_path / "adapter", tokenizer)
    commit_to_hub_cache(tmp_path / "cache", new, tmp_path / "moved")
    (tmp_path / "cache" / "models--org--name" / "snapshots" / new / "chat_template.jinja").write_text(CHAT)
    assert pin("org/name") == f"org/name@{new}"
    assert fingerprint(pin("org/name")) != fingerprint(pinned)
    torch.testing.assert_close(logits(load_model(pinned, "float32")), before, rtol=0, atol=0)
    assert (logits(load_model("org/name", "float32")) - before).abs().max() > 0.1
    assert load_tokenizer(f"org/name@{new}", chat_template=True).chat_template == CHAT
    with pytest.raises(ParamsError, match="has no chat template"):
        load_tokenizer(pinned, chat_template=True)
    assert base_and_adapters(str(tmp_path / "adapter"))[0] == pinned
    assert fingerprint(str(tmp_path / "adapter"))["start"] == fingerprint(pinned)


def test_a_folder_is_its_own_pin_and_a_missing_model_an_error(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pin(str(tiny_base)) == str(tiny_base)
    for source in ("org/nowhere", f"org/nowhere@{'a' * 40}", str(tmp_path / "nowhere")):
        with pytest.raises(ParamsError, match=r"^base_model\.source = '.*nowhere.*': no model there .*name mini-base"):
            pin(source)


# In training mode: in evaluation mode, bitsandbytes uses bfloat16 on some CPUs. No model here has dropout.
@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model.train()(input_ids=IDS).logits


@torch.inference_mode()
def scores(model: RewardModel) -> torch.Tensor:
    rows = [
        {"input_ids": ids, "parents": [i - 1 for i in range(len(ids))], "label_at": list(range(len(ids)))}
        for ids in IDS.tolist()
    ]
    empty = {"labels": [], "lm_at": [], "lm_labels": []}
    batch = collate([row | empty for row in rows], 0)
    return model.train()(**{name: batch[name] for name in SCORED})["logits"].sigmoid()


def shake(model: torch.nn.Module, seed: int) -> None:
    """Replace the zeros of adapters and head with random values, as training would."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.5 if name.startswith("head.") else 0.05)


def adapted(start: Path, finetuning: Finetuning = LORA, seed: int = 0):
    model = adapt(load_model(str(start), "float32"), finetuning, seed)
    shake(model, seed)
    return model


def save_adapter(start: Path, folder: Path, tokenizer, seed: int = 0, finetuning: Finetuning = LORA) -> torch.Tensor:
    model = adapted(start, finetuning, seed)
    save_model(model, tokenizer, str(start), folder)
    return logits(model)


def test_a_fully_trained_model_reloads_equal(tiny_base, tokenizer, tmp_path):
    model = load_model(str(tiny_base), "float32")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    save_model(model, tokenizer, str(tiny_base), tmp_path / "m")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "m"), "float32")), logits(model), rtol=0, atol=0)
    assert load_tokenizer(str(tmp_path / "m")).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("finetuning", [LORA, QLORA, QLORA_SINGLE], ids=["lora", "qlora", "single quantisation"])
def test_an_adapter_reloads_equal_and_brings_no_base_weights(finetuning, wide_base, tokenizer, tmp_path):
    before = save_adapter(wide_base, tmp_path / "a", tokenizer, finetuning=finetuning)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "a"), "float32")), before, rtol=1e-4, atol=1e-4)
    assert (before - logits(load_model(str(wide_base), "float32"))).abs().max() > 0.1
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert not (tmp_path / "a" / "model.safetensors").exists()
    assert len(tensors) == 2 * 2 * 7  # A and B, two layers, each of the seven matrices that are named
    assert all("lora_" in name for name in tensors)


@pytest.mark.parametrize("finetuning", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
def test_a_bfloat16_student_reloads_as_it_was_trained(finetuning, wide_base, tokenizer, tmp_path):
    model = adapt(load_model(str(wide_base), "bfloat16"), finetuning, 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {
        torch.bfloat16 if finetuning is FULL else torch.float32
    }
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1 if finetuning is not FULL else 2)
    shake(model, 1)
    save_model(model, tokenizer, str(wide_base), tmp_path / "m")
    reloaded, base = (load_model(str(path), "bfloat16") for path in (tmp_path / "m", wide_base))
    assert {p.dtype for p in reloaded.parameters()} == {torch.bfloat16}
    error = (logits(reloaded) - logits(model)).float().norm()
    assert error < 0.05 * (logits(base) - logits(model)).float().norm()


def test_lora_is_what_the_parameters_say(tiny_base):
    options = {"lora_rank": 3, "lora_alpha": 12, "lora_dropout": 0.25, "lora_targets": ["v_proj", "up_proj"]}
    model = adapt(load_model(str(tiny_base), "float32"), LORA.model_copy(update=options), 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert {(name.split(".")[-4], *shape) for name, shape in shapes.items()} == {
        ("v_proj", 3, 32), ("v_proj", 32, 3), ("up_proj", 3, 32), ("up_proj", 64, 3)
    }  # fmt: skip
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    assert (layer.scaling["default"], layer.lora_dropout["default"].p) == (12 / 3, 0.25)


@pytest.mark.parametrize("finetuning", [LORA, QLORA], ids=["lora", "qlora"])
def test_an_adapter_on_an_adapter_reloads_equal(finetuning, wide_base, tokenizer, tmp_path):
    first = save_adapter(wide_base, tmp_path / "a", tokenizer, 1, finetuning)
    second = save_adapter(tmp_path / "a", tmp_path / "b", tokenizer, 2, finetuning)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "b"), "float32")), second, rtol=1e-4, atol=1e-4)
    assert (first - second).abs().max() > 0.1
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert base_and_adapters(b) == (str(wide_base), [a, b])
    assert base_and_adapters(str(wide_base)) == (str(wide_base), [])


def test_a_model_on_an_adapter_moves_with_it(tiny_base, tokenizer, tmp_path):
    (tmp_path / "store").mkdir()
    tiny_base.rename(tmp_path / "store" / "base")
    try:
        save_adapter(tmp_path / "store" / "base", tmp_path / "store" / "a", tokenizer)
        before = save_adapter(tmp_path / "store" / "a", tmp_path / "store" / "b", tokenizer)
        (tmp_path / "store").rename(tmp_path / "moved")
        after = logits(load_model(str(tmp_path / "moved" / "b"), "float32"))
    finally:
        next(tmp_path.glob("*/base")).rename(tiny_base)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_an_adapter_in_a_linked_folder_finds_its_base(tiny_base, tokenizer, tmp_path):
    """Artifacts are often on another disk, behind a symbolic link."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk" / "deep")
    before = save_adapter(tiny_base, tmp_path / "artifacts" / "a", tokenizer)
    after = logits(load_model(str(tmp_path / "artifacts" / "a"), "float32"))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_qlora_trains_an_adapter_over_weights_in_four_bits(wide_base):
    model = adapted(wide_base, QLORA)
    packed = {name: p for name, p in model.named_parameters() if p.dtype == torch.uint8}
    whole = {name: p.numel() for name, p in load_model(str(wide_base), "float32").named_parameters()}
    linear = {name: n for name, n in whole.items() if "_proj" in name}
    assert sum(p.numel() for p in packed.values()) == sum(linear.values()) // 2  # two weights a byte
    assert len(packed) == len(linear) == 2 * 7
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7 and all("lora_" in name for name in trained)


@pytest.mark.parametrize("double", [False, True])
def test_a_qlora_student_is_its_adapter_over_the_rounded_weights(double, wide_base, tokenizer, tmp_path):
    """Computed by hand: in each block of 64 weights, the nearest of NF4's 16 values times the block's largest."""
    finetuning = QLORA if double else QLORA_SINGLE
    model = adapt(load_model(str(wide_base), "float32"), finetuning, 0)  # adapters that still add nothing
    save_model(model, tokenizer, str(wide_base), tmp_path / "a")
    before, after = (dict(load_model(str(path), "float32").named_parameters()) for path in (wide_base, tmp_path / "a"))
    for name, weight in before.items():
        expected = weight
        if "_proj" in name:
            blocks = weight.reshape(-1, 64)
            scale = blocks.abs().amax(1, keepdim=True)
            nearest = NF4[((blocks / scale)[..., None] - NF4).abs().argmin(-1)]
            expected = (nearest * scale).reshape(weight.shape)
            assert (after[name] - weight).abs().mean() > 0.005
        # Double quantisation rounds the scales, to about a hundredth of their largest.
        torch.testing.assert_close(after[name], expected, rtol=0, atol=0.02 if double else 1e-5)
    largest, exact = (w["model.layers.0.mlp.up_proj.weight"].reshape(-1, 64).abs().amax(1) for w in (after, before))
    assert ((largest - exact).abs().max() > 1e-4) == double


@pytest.mark.parametrize("finetuning", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
@pytest.mark.parametrize("on", ["base", "adapter"])
def test_a_reward_model_reloads_with_its_head(finetuning, on, wide_base, tokenizer, tmp_path):
    start = wide_base
    if on == "adapter":
        start = tmp_path / "student"
        save_adapter(wide_base, start, tokenizer, 3, LORA if finetuning is FULL else finetuning)
    model = RewardModel(adapted(start, finetuning, seed=4))
    shake(model, 5)
    model.save(tokenizer, str(start), tmp_path / "rm")
    before = scores(model)
    torch.testing.assert_close(scores(load_reward_model(str(tmp_path / "rm"), "float32")), before, rtol=1e-4, atol=1e-5)
    assert before.std() > 0.05
    assert (tmp_path / "rm" / "start.json").exists() == (finetuning is not FULL)


def test_an_untrained_reward_model_says_one_half_everywhere(tiny_base):
    assert (scores(RewardModel(load_model(str(tiny_base), "float32"))) == 0.5).all()


def test_with_lora_only_adapters_and_the_head_are_trained(tiny_base):
    model = RewardModel(adapted(tiny_base))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} < trained
    assert all("lora_" in name for name in trained - {"head.weight", "head.bias"})
    assert len(trained) == 2 + 2 * 2 * 7


def test_the_reward_model_registers_no_weight_twice(tiny_base):
    language_model = load_model(str(tiny_base), "float32")
    head = language_model.config.hidden_size + 1
    assert sum(p.numel() for p in RewardModel(language_model).parameters()) == language_model.num_parameters() + head


@pytest.mark.parametrize(
    "load", [lambda source: load_model(source, "float32"), load_tokenizer], ids=["model", "tokenizer"]
)
@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_missing_model_is_reported_in_one_line(load, where, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParamsError, match=r"^base_model\.source = '.*': no model there .*name mini-base") as error:
        load(str(tmp_path / where))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "load", [lambda source: load_model(source, "float32"), load_tokenizer], ids=["model", "tokenizer"]
)
def test_a_gated_model_without_a_token_is_reported_in_one_line(load, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        response = SimpleNamespace(headers={}, request=SimpleNamespace(method="HEAD", url="https://huggingface.co"))
        raise GatedRepoError("401 Client Error.\n\nAccess to model x/y is restricted.", response=response)

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ParamsError) as error:
        load("meta-llama/Llama-2-7b-hf")
    assert str(error.value) == (
        "base_model.source = 'meta-llama/Llama-2-7b-hf': is gated, and no token on this machine can read it; ask for "
        "access at https://huggingface.co/meta-llama/Llama-2-7b-hf, then run: hf auth login"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Method 'cquantize' not available in CPU-only version of bitsandbytes.\nReinstall it."),
         (ParamsError, r"^finetuning\.method = 'qlora': .*CPU-only.*; .* set it to lora$")),
        (torch.OutOfMemoryError("CUDA out of memory."), (torch.OutOfMemoryError, "^CUDA out of memory")),
    ],
)  # fmt: skip
def test_a_bitsandbytes_that_was_not_built_for_the_gpu_is_reported_in_one_line(error, told, wide_base, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", refuse)
    with pytest.raises(told[0], match=told[1]):
        adapted(wide_base, QLORA)


def test_a_model_that_does_not_fit_is_reported_in_one_line(tiny_base, monkeypatch):
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.00 MiB.\nSee documentation")

    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    with pytest.raises(ParamsError, match=r"^base_model\.dtype = 'float32': .*86\.00 MiB.*; set it to bfloat16"):
        load_model(str(tiny_base), "float32")
