"""The training scripts: each piece against an exact reference."""

import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from training.common.muon import orthogonalize  # noqa: E402
from training.smollm2.conversations import Conversation, Segment  # noqa: E402
from training.smollm2.decode import BatchDecoder  # noqa: E402
from training.smollm2.evaluate import tokens_per_round  # noqa: E402
from training.smollm2.heldout import HELD_OUT  # noqa: E402
from training.smollm2.install import NAME, install  # noqa: E402
from training.smollm2.loss import sampled_distillation  # noqa: E402
from training.smollm2.prompts import FOLLOW_UPS, TASKS, TOPICS  # noqa: E402
from training.smollm2.shards import read_shards, write_shard  # noqa: E402
from wanspec.models import resolve  # noqa: E402
from wanspec.models.cache import file_sha256  # noqa: E402


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_orthogonalized_updates_have_singular_values_near_one(shape):
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.3
    assert values.max() < 1.4


def _loss_case(vocabulary=40, positions=7, width=8):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(positions, width, generator=generator, requires_grad=True)
    embeddings = torch.randn(vocabulary, width, generator=generator)
    teacher = torch.randn(positions, vocabulary, generator=generator).mul(2).log_softmax(dim=-1)
    top = teacher.topk(16, dim=-1)
    return hidden, embeddings, top.indices, top.values


def test_with_all_rows_drawn_the_sampled_loss_is_exact():
    hidden, embeddings, ids, log_probs = _loss_case()
    result = sampled_distillation(hidden, embeddings, ids, log_probs, 40, torch.Generator())
    own = (hidden @ embeddings.T).log_softmax(dim=-1).gather(1, ids)
    rest, own_rest = 1 - log_probs.exp().sum(-1), 1 - own.exp().sum(-1)
    exact = -((log_probs.exp() * own).sum(-1) + rest * own_rest.log()).mean()
    torch.testing.assert_close(result.loss, exact, rtol=1e-4, atol=1e-4)
    best = (hidden @ embeddings.T).argmax(dim=-1)
    assert result.match == pytest.approx((best == ids[:, 0]).float().mean().item())


def test_fewer_rows_estimate_the_exact_loss():
    hidden, embeddings, ids, log_probs = _loss_case(vocabulary=2000)
    exact = sampled_distillation(hidden, embeddings, ids, log_probs, 2000, torch.Generator()).loss.item()
    generator = torch.Generator().manual_seed(1)
    drawn = [sampled_distillation(hidden, embeddings, ids, log_probs, 500, generator).loss.item() for _ in range(40)]
    assert sum(drawn) / len(drawn) == pytest.approx(exact, rel=0.03)


def test_shards_give_back_what_was_written(tmp_path):
    kept = Conversation([Segment()], tokens=[5, 6, 7], learned=[1, 2], top_ids=[[6] * 16, [7] * 16])
    kept.top_log_probs = [[-0.5] * 16, [-1.0] * 16]
    nothing = Conversation([Segment()], tokens=[5])
    write_shard(tmp_path / "a.safetensors", [nothing, kept, kept])
    write_shard(tmp_path / "b.safetensors", [nothing])
    examples = read_shards(tmp_path)
    assert len(examples) == 2
    assert examples[1].tokens.tolist() == [5, 6, 7]
    assert examples[1].positions.tolist() == [1, 2]
    assert examples[1].top_ids[:, 0].tolist() == [6, 7]
    assert examples[1].top_log_probs[:, 3].tolist() == [-0.5, -1.0]


@pytest.mark.parametrize(("k", "expected"), [(1, 6 / 4), (2, 6 / 3), (4, 6 / 3)])
def test_tokens_per_round_counts_accepted_and_bonus_tokens(k, expected):
    # At k = 1 the rounds are (hit, own) (own) (hit, own) (own): each ends with a token of the target itself.
    assert tokens_per_round([[True, True, False, True, False, False]], k) == pytest.approx(expected)


def test_held_out_prompts_are_no_training_prompts():
    asked = " ".join(text.lower() for turns in HELD_OUT for _, text in turns)
    assert len(HELD_OUT) >= 12
    assert not [task for task in TASKS if task.split("{}")[0].strip() and task.format("tea").lower() in asked]
    assert not [text for text in FOLLOW_UPS if text.lower() in asked and len(text) > 12]
    assert len(set(TOPICS)) == len(TOPICS) > 200


def test_rows_of_different_lengths_decode_as_if_alone():
    transformers = pytest.importorskip("transformers")
    folder = resolve("small-target")
    config = json.loads((folder / "config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    decoder = BatchDecoder(folder, 3, 32)
    prompts = [[5, 900, 17, 301], [44, 8, 2000, 7, 7, 91, 3], [5, 13]]
    decoder.append(0, prompts[0][:2])
    decoder.copy_prefix(0, 2, 1)
    decoder.append(0, prompts[0][2:])
    decoder.append(1, prompts[1])
    decoder.append(2, prompts[2][1:])
    sequences = [list(prompt) for prompt in prompts]
    for token in ([301, 9, 77], [6, 6, 1500]):
        best = decoder.step(torch.tensor(token))
        for row, sequence in enumerate(sequences):
            sequence.append(token[row])
            with torch.inference_mode():
                exact = model(torch.tensor([sequence])).logits[0, -1].log_softmax(dim=-1)
            assert best.ids.max() < config["vocab_size"]
            torch.testing.assert_close(best.log_probs[row], exact[best.ids[row]], atol=0.1, rtol=0.0)
            assert exact.max() - exact[best.ids[row, 0]] < 0.1


@pytest.fixture
def bundled(tmp_path):
    weights, source = tmp_path / "weights", tmp_path / "catalog.py"
    (weights / "smollm2-draft").mkdir(parents=True)
    save_file({"norm": torch.zeros(1000)}, weights / NAME)
    source.write_text(f'ModelFile("x", {(weights / NAME).stat().st_size:_}, "{file_sha256(weights / NAME)}")')
    return weights, source


def test_installed_layers_are_the_ones_the_catalog_expects(bundled, tmp_path):
    weights, source = bundled
    save_file({"norm": torch.ones(1000)}, tmp_path / "layers.safetensors")
    new = install(tmp_path, weights, source)
    assert new == file_sha256(weights / NAME) == file_sha256(tmp_path / "layers.safetensors")
    assert new in source.read_text()


def test_layers_of_another_shape_are_not_installed(bundled, tmp_path):
    weights, source = bundled
    before = source.read_text()
    save_file({"norm": torch.ones(999)}, tmp_path / "layers.safetensors")
    with pytest.raises(ValueError, match="other tensors"):
        install(tmp_path, weights, source)
    assert source.read_text() == before
    assert file_sha256(weights / NAME) in before
