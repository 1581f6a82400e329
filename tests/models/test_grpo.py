"""GRPO on a tiny random model: it learns what is rewarded, each token its share, and continues where it stopped."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glore_lib.models.grpo import STABLE, Schedule, Written, step_advantages, train
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.params import Finetuning, ParamsError
from glore_lib.sampling import Request, transformers

SCHEDULE = Schedule(steps=8, groups=2, samples=4, temperature=1.0, max_new_tokens=4, learning_rate=5e-3, kl_weight=0.0)
PROMPTS = [[1, 5 + i % 7, 9] for i in range(32)]


def finetuning(**options) -> Finetuning:
    return Finetuning(**{"method": "full", "batch_size": 8, "micro_batch_size": 4, "max_length": 64} | options)


def writer(tokenizer, rewarded=lambda ids: float(ids[0] % 2), stops: int = -1, steps: bool = False):
    """Sample from the model in training; reward completions that begin with an odd token."""
    seen = []

    def write(policy, asked, step):
        if step == stops:
            raise KeyboardInterrupt
        policy.eval()
        sampler = transformers.build(policy, tokenizer, 8, True)
        requests = [Request(tuple(PROMPTS[i]), SCHEDULE.samples, i) for i in asked[:: SCHEDULE.samples]]
        answers = sampler.sample(requests, SCHEDULE.temperature, SCHEDULE.max_new_tokens, "")
        ids = [list(completion.ids) for answer in answers for completion in answer]
        rewards = [rewarded(some) for some in ids]
        seen.append((step, tuple(asked)))
        measures = {"correct": sum(rewards) / len(rewards), "tokens": float(sum(map(len, ids)))}
        of_steps = ([[r] for r in rewards], [[0] * len(some) for some in ids]) if steps else (None, [])
        return Written(ids, rewards, measures, *of_steps)

    write.seen = seen
    return write


def trained(tiny_base, tokenizer, folder: Path, write, method: str = "full", **schedule):
    folder.mkdir(exist_ok=True)
    how = Schedule(**{**vars(SCHEDULE), **schedule})
    model = adapt(load_model(str(tiny_base), "float32"), finetuning(method=method), 0)
    info = train(model, tokenizer, PROMPTS, finetuning(method=method), how, write, 0, folder)
    return model, info


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_step_advantages_by_hand():
    """Two completions of a group: rewards 1, 0 and 1 have mean 2/3 and standard deviation 0.57735."""
    deviation = 0.5773502691896257 + STABLE
    up, down = (1 / 3) / deviation, (-2 / 3) / deviation
    first, second = step_advantages([[1, 0], [1]], [[0, 0, 1], [0, 0]], samples=2)
    assert first == pytest.approx([up + down, up + down, down])
    assert second == pytest.approx([up, up])


def test_groups_are_normalised_apart_and_steps_without_a_reward_teach_nothing():
    found = step_advantages([[1.0], [0.0], [5.0], [5.0], [], [0.5]], [[0], [0], [0], [0], [0, 0], [0]], samples=2)
    assert found[0][0] == -found[1][0] > 0.7
    assert found[2:] == [[0.0], [0.0], [0.0, 0.0], [0.0]]


def test_what_is_rewarded_becomes_more_frequent(tiny_base, tokenizer, tmp_path):
    """And less frequent if the reward is turned around."""
    shares = {}
    for sign in (1, -1):
        write = writer(tokenizer, lambda ids, sign=sign: sign * float(ids[0] % 2))
        _, info = trained(tiny_base, tokenizer, tmp_path / str(sign), write, steps=16)
        assert [entry["step"] for entry in info["log"]] == [*range(1, 17)]
        assert info["completions"] == 128 and info["tokens_generated"] == sum(e["tokens"] for e in info["log"])
        shares[sign] = [sign * entry["reward"] for entry in info["log"]]
    assert shares[1][0] == shares[-1][0]  # the same samples, before any step
    assert sum(shares[1][-5:]) > sum(shares[-1][-5:]) + 2.5


def test_the_kl_divergence_holds_a_model_at_its_start(tiny_base, tokenizer, tmp_path):
    distances = []
    for weight in (0.01, 100.0):
        folder = tmp_path / str(weight)
        _, info = trained(tiny_base, tokenizer, folder, writer(tokenizer), learning_rate=1e-3, kl_weight=weight)
        assert info["log"][0]["kl"] == pytest.approx(0, abs=1e-5)
        distances.append(info["log"][-1]["kl"])
    assert distances[0] > 2 * distances[1] > 0


def test_one_reward_for_the_only_step_is_one_for_the_completion(tiny_base, tokenizer, tmp_path):
    """The two kinds of rewards agree where they mean the same, up to rounding."""
    whole, _ = trained(tiny_base, tokenizer, tmp_path / "whole", writer(tokenizer), steps=1)
    by_step, _ = trained(tiny_base, tokenizer, tmp_path / "steps", writer(tokenizer, steps=True), steps=1)
    start = weights(load_model(str(tiny_base), "float32"))
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(by_step)[name], atol=1e-5), name
    assert not same(weights(whole), start)


@pytest.mark.parametrize(("method", "stops"), [("full", 7), ("full", 2), ("lora", 6)])
def test_a_stopped_training_continues_to_the_same_model(tiny_base, tokenizer, tmp_path, method, stops):
    """From the checkpoint of step 5, or from the start."""
    model, info = trained(tiny_base, tokenizer, tmp_path / "whole", writer(tokenizer), method, kl_weight=0.1)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_base, tokenizer, tmp_path / "cut", writer(tokenizer, stops=stops), method, kl_weight=0.1)
    write = writer(tokenizer)
    resumed, got = trained(tiny_base, tokenizer, tmp_path / "cut", write, method, kl_weight=0.1)
    assert write.seen[0][0] == (5 if stops > 5 else 0)
    assert same(weights(model), weights(resumed))
    assert (got.pop("seconds_before") > 0) == (stops > 5)
    info.pop("seconds_before")
    assert got == info
    assert not list((tmp_path / "cut").rglob("checkpoint-*"))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_saved_alone_and_has_learned(wide_base, tokenizer, tmp_path, method):
    """In float32, and without the copy of its start that the KL divergence needs."""
    model, _ = trained(wide_base, tokenizer, tmp_path / "work", writer(tokenizer), method, kl_weight=0.1)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    out = tmp_path / "adapter"
    out.mkdir()
    save_model(model, tokenizer, str(wide_base), out)
    assert {path.name for path in out.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert not (out / "ref").exists() and not any(
        "ref" in name for name in load_file(out / "adapter_model.safetensors")
    )
    merged, start = weights(load_model(str(out), "float32")), weights(load_model(str(wide_base), "float32"))
    assert merged.keys() == start.keys() and not same(merged, start)


def test_a_diverging_training_is_one_error(tiny_base, tokenizer, tmp_path):
    with pytest.raises(ParamsError, match=r"learning_rate = 1e\+30: (the loss is|weights are) .+; lower it"):
        trained(tiny_base, tokenizer, tmp_path / "nan", writer(tokenizer), learning_rate=1e30)


def test_nothing_is_told_to_anyone(tiny_base, tokenizer, tmp_path, monkeypatch, capfd):
    """TRL reports its use to the hub, prints every log and writes model cards; none of this happens."""
    told = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: told.append(a))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(KeyboardInterrupt):  # a checkpoint is there
        trained(tiny_base, tokenizer, tmp_path / "quiet", writer(tokenizer, stops=6))
    assert not told
    assert list((tmp_path / "quiet").rglob("checkpoint-5"))
    assert "reward" not in capfd.readouterr().out
    assert not list((tmp_path / "quiet").rglob("README.md"))


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_what_a_sampler_changes_is_restored(tiny_base, tokenizer, tmp_path, monkeypatch, shared_prefix):
    build = transformers.build
    monkeypatch.setattr(transformers, "build", lambda *given: build(*given[:3], shared_prefix))
    start = load_model(str(tiny_base), "float32")
    model, _ = trained(tiny_base, tokenizer, tmp_path / "restored", writer(tokenizer), steps=1)
    assert model.config._attn_implementation == start.config._attn_implementation
    assert model.generation_config.eos_token_id == start.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.training
