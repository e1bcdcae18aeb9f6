from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec.core.drafting import SequenceLeaves
from wanspec.core.sampling import Sampling, ranked, sample
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.pace import Pace
from wanspec.engines.ranking import top_tokens
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree import TreeDraftEngine
from wanspec.errors import EngineError

VOCAB, CONTEXT = 61, 128  # of the model fixture


def plain_logits(model: TorchModel, tokens: list[int]) -> torch.Tensor:
    buffer = KVBuffer(model.kv_shape, CONTEXT)
    return model.forward([append_segment(buffer, 0, tokens, 1)])


class Recorder:
    """The engine with the logits of each pass exposed, since an expansion is float32."""

    def __init__(self, model: TorchModel, **options: int) -> None:
        self.model, self.logits, self.rows = model, torch.zeros(0), 0
        recorder = self

        class Recording:
            def __getattr__(self, name: str) -> object:
                return getattr(model, name)

            def forward(self, segments: list) -> torch.Tensor:
                recorder.rows = sum(len(segment.tokens) for segment in segments)
                recorder.logits = model.forward(segments)
                return recorder.logits

        self.engine = TreeDraftEngine(Recording(), **options)  # type: ignore[arg-type]

    def check(self, batch: list[SequenceLeaves], top: int = 4) -> None:
        expansion = self.last = self.engine.expand(batch, top)
        row = 0
        for sequence in batch:
            for path in sequence.leaves:
                expected = plain_logits(self.model, [*sequence.prefix[: sequence.length], *path])
                worst = (self.logits[row] - expected[0]).abs().max().item()
                assert worst < 1e-9, f"leaf {path} of {sequence.key} differs by {worst}"
                ids, log_probs, entropies = top_tokens(expected, top)
                assert expansion.tokens[row].tolist() == ids[0].tolist()
                np.testing.assert_allclose(expansion.log_probs[row], log_probs[0].numpy(), atol=1e-5)
                np.testing.assert_allclose(expansion.entropies[row], entropies[0].item(), atol=1e-5)
                row += 1
        assert row == len(expansion.tokens)


def leaves_of(key: object, prefix: list[int], *paths: tuple[int, ...]) -> SequenceLeaves:
    return SequenceLeaves(key, prefix, len(prefix), paths)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), tree_slots=st.sampled_from([12, 40, 500]), alphabet=st.sampled_from([2, 4, VOCAB])
)
def test_any_history_of_commits_and_trees_equals_a_plain_forward(
    model: TorchModel, seed: int, tree_slots: int, alphabet: int
) -> None:
    """Few token ids make hits likely; few slots make pruning, reuse and growth of buffers happen."""
    choose = random.Random(seed)
    recorder = Recorder(model, tree_slots=tree_slots)
    prefixes = {key: [choose.randrange(VOCAB) for _ in range(choose.randint(1, 70))] for key in range(3)}
    paths: dict[int, list[tuple[int, ...]]] = {key: [()] for key in prefixes}
    for _ in range(7):
        batch = []
        for key in choose.sample(sorted(prefixes), choose.randint(1, 3)):
            prefix, known = prefixes[key], paths[key]
            grown = [choose.randrange(alphabet) for _ in range(choose.randint(0, 3))]
            if len(prefix) + len(grown) < 100:
                prefix += grown
                known[:] = [path[len(grown) :] for path in known if list(path[: len(grown)]) == grown] or [()]
            if choose.random() < 0.2:
                recorder.engine.release(key)
                prefix[:] = prefixes[choose.randrange(3)][: choose.randint(1, 70)]  # another one, that begins alike
                known[:] = [()]
            known += [(*choose.choice(known), choose.randrange(alphabet)) for _ in range(2)]
            picked = tuple(choose.choice([path for path in known if len(path) <= 5] or [()]) for _ in range(2))
            batch.append(SequenceLeaves(key, prefix, len(prefix), picked))
        recorder.check(batch)


def test_hits_cost_only_the_leaves(model: TorchModel) -> None:
    recorder = Recorder(model)
    prefix = [5, 6, 7, 8]
    recorder.check([leaves_of("s", prefix, ())])
    assert recorder.rows == 4
    recorder.check([leaves_of("s", prefix, (1,), (2,), (1, 3))])
    assert recorder.rows == 3
    prefix += [1, 3]
    recorder.check([leaves_of("s", prefix, (9,))])
    assert recorder.rows == 1, "both committed tokens were in the tree"
    prefix += [4]
    recorder.check([leaves_of("s", prefix, ())])
    assert recorder.rows == 1, "a miss is computed, with no other token"


def test_pruned_slots_are_used_again(model: TorchModel) -> None:
    recorder = Recorder(model)
    prefix = [3, 4]
    recorder.check([leaves_of("s", prefix, *((token,) for token in range(20)))])
    assert recorder.engine.cached_slots("s") == 22
    for token in (30, 31, 32):
        prefix.append(token)
        recorder.check([leaves_of("s", prefix, *((token,) for token in range(20)))])
        assert recorder.engine.cached_slots("s") == len(prefix) + 20


def test_length_limits_the_prefix(model: TorchModel) -> None:
    recorder = Recorder(model)
    prefix = [1, 2, 3, 4, 5, 6]
    recorder.check([SequenceLeaves("s", prefix, 3, ((),))])
    assert recorder.rows == 3
    recorder.check([SequenceLeaves("s", prefix, 6, ((9, 9),))])


def test_a_changed_prefix_is_computed_again(model: TorchModel) -> None:
    recorder = Recorder(model)
    recorder.check([leaves_of("s", [1, 2, 3, 4], (5,))])
    recorder.check([leaves_of("s", [1, 2, 3], (5,))])
    recorder.check([leaves_of("s", [1, 2, 9, 8], (5,))])


def test_sequences_beyond_the_budget_are_forgotten_and_recomputed(model: TorchModel) -> None:
    recorder = Recorder(model, kv_tokens=130)
    for key in range(4):
        recorder.check([leaves_of(key, [key + 1, 2, 3], (5,))])
    assert [recorder.engine.cached_slots(key) for key in range(4)] == [0, 0, 4, 4]
    recorder.check([leaves_of(0, [1, 2, 3], (5,))])


@pytest.mark.parametrize(
    ("batch", "top", "message"),
    [
        ([], 1, "batch is empty"),
        ([leaves_of("s", [1], ())], 0, "top is 0"),
        ([leaves_of("s", [1], ())], VOCAB + 1, "top is 62"),
        ([SequenceLeaves("s", [1], 2, ((),))], 1, "length 2"),
        ([leaves_of("s", [1])], 1, "0 leaves"),
        ([leaves_of("s", [1] * CONTEXT, (1,))], 1, "129 tokens, the draft takes 128"),
        ([leaves_of("s", [1], ()), leaves_of("s", [1], (2,))], 1, "twice"),
    ],
)
def test_impossible_passes_are_refused(model: TorchModel, batch: list[SequenceLeaves], top: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        TreeDraftEngine(model).expand(batch, top)


def test_too_many_nodes_name_the_setting(model: TorchModel) -> None:
    engine = TreeDraftEngine(model, tree_slots=4)
    with pytest.raises(EngineError, match="tree_slots"):
        engine.expand([leaves_of("s", [1] * 120, *((token,) for token in range(20)))], 1)


def test_a_failed_pass_leaves_no_trace(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(model)
    recorder.check([leaves_of("s", [1, 2, 3], (4,))])
    with monkeypatch.context() as patch:
        patch.setattr(TorchModel, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(EngineError, match="out of memory"):
            recorder.engine.expand([leaves_of("s", [1, 2, 3], (5,))], 1)
    recorder.check([leaves_of("s", [1, 2, 3], (5,), (4,))])


def test_the_pace_is_part_of_engine_time(model: TorchModel) -> None:
    engine = TreeDraftEngine(model, pace=Pace(20.0))
    assert 20.0 <= engine.expand([leaves_of("s", [1], ())], 1).engine_ms < 40.0


def test_equal_logits_rank_by_id() -> None:
    logits = torch.zeros((2, 50))
    logits[0, [40, 7, 30]] = 1.0
    logits[1, 9] = 2.0
    ids, log_probs, entropies = top_tokens(logits, 2)
    assert ids.tolist() == [[7, 30], [9, 0]]
    assert log_probs.shape == (2, 2)
    assert entropies[0].item() == pytest.approx(torch.distributions.Categorical(logits=logits[0]).entropy().item())


def test_expansion_has_the_stated_dtypes(model: TorchModel) -> None:
    expansion = TreeDraftEngine(model).expand([leaves_of("s", [1, 2], (), (3,))], 3)
    fields = expansion._asdict()
    assert fields["margins"] is None
    assert [fields[name].dtype.name for name in ("tokens", "log_probs", "entropies")] == ["int32", "float32", "float32"]
    assert fields["tokens"].shape == (2, 3)


def test_sampled_sequences_rank_by_perturbed_score_at_the_childs_position(model: TorchModel) -> None:
    """The first child is the token that a target with these logits would draw there; others in the pass are greedy."""
    setting = Sampling(0.8, 20, 0.95, 77)
    prefix = [1, 2, 3]
    paths = ((), (4,), (4, 5))
    sampled = SequenceLeaves("s", [*prefix, 60, 60], 3, paths, setting)
    greedy = leaves_of("g", [9, 8], ())
    expansion = TreeDraftEngine(model).expand([sampled, greedy], 5)
    assert expansion.margins is not None
    for row, path in enumerate(paths):
        tokens = [*prefix, *path]
        logits = plain_logits(model, tokens)[0].numpy()
        assert expansion.tokens[row, 0] == sample(logits, setting, len(tokens))
        best = ranked(logits, setting, len(tokens), 5)
        assert expansion.tokens[row].tolist() == best.ids.tolist()
        np.testing.assert_allclose(expansion.log_probs[row], best.log_probs, atol=1e-5)
        assert expansion.entropies[row] == pytest.approx(best.entropy, abs=1e-5)
        assert expansion.margins[row] == pytest.approx(best.scores[0] - best.scores[1], abs=1e-5)
    ids, log_probs, entropies = top_tokens(plain_logits(model, [9, 8]), 5)
    assert expansion.tokens[3].tolist() == ids[0].tolist()
    np.testing.assert_allclose(expansion.log_probs[3], log_probs[0].numpy(), atol=1e-5)
    assert expansion.entropies[3] == pytest.approx(entropies[0].item(), abs=1e-5)


def test_sampling_that_is_greedy_changes_nothing(model: TorchModel) -> None:
    plain, greedy = (
        TreeDraftEngine(model).expand([SequenceLeaves("s", [1, 2, 3], 3, ((), (4,)), setting)], 3)
        for setting in (None, Sampling(0.7, 1, 1.0, 5))
    )
    assert greedy.margins is None
    assert (plain.tokens == greedy.tokens).all()
    assert (plain.log_probs == greedy.log_probs).all()


@pytest.mark.parametrize("setting", [Sampling(1.0, 0, 1.0, 5), Sampling(0.8, 12, 0.9, 2**64 - 1), Sampling()])
def test_a_draft_that_is_the_target_is_always_accepted(model: TorchModel, setting: Sampling) -> None:
    """Both engines mean the same position by their noise."""
    drafter, verifier = TreeDraftEngine(model), TorchEngine(model, max_draft_len=6)
    prefix, path = [5, 6, 7, 8, 9], ()
    for _ in range(6):
        expansion = drafter.expand([SequenceLeaves("s", prefix, len(prefix), (path,), setting)], 3)
        path = (*path, int(expansion.tokens[0, 0]))
    request = GenerationRequest(
        np.asarray(prefix, dtype=np.int32),
        7,
        np.asarray(path, dtype=np.int32),
        temperature=setting.temperature,
        runtime_top_k=setting.top_k,
        runtime_top_p=setting.top_p,
        seed=setting.seed,
    )
    (result,) = verifier.generate([request])
    assert isinstance(result, GenerationResult), result
    assert result.accepted_drafts == 6


def computed_by(recorder: Recorder, key: object, prefix: list[int], *paths: tuple[int, ...]) -> int:
    """Tokens of the prefix that a pass computes; its results are checked."""
    recorder.check([leaves_of(key, prefix, *(paths or ((),)))])
    (computed,) = recorder.last.computed
    return computed


def test_a_later_turn_computes_its_suffix(model: TorchModel) -> None:
    recorder = Recorder(model)
    prompt = list(range(1, 41))
    assert computed_by(recorder, "turn 1", prompt) == 40
    said = [*prompt, 50, 51]
    assert computed_by(recorder, "turn 1", said, (7,), (8,)) == 2
    recorder.engine.release("turn 1")
    assert recorder.engine.kept_tokens == 42
    assert recorder.engine.cached_slots("turn 1") == 0
    assert computed_by(recorder, "turn 2", [*said, 9, 9, 9], (4,)) == 3
    assert recorder.engine.kept_tokens == 0, "taken over, not copied"


def test_two_conversations_from_one_beginning(model: TorchModel) -> None:
    recorder = Recorder(model)
    shared = list(range(1, 41))
    assert computed_by(recorder, "a", [*shared, *range(20, 60)]) == 80
    recorder.engine.release("a")
    assert computed_by(recorder, "b", [*shared, 7, 7]) == 2
    assert recorder.engine.kept_tokens == 80, "copied, since much of it is of no use to this one"
    assert computed_by(recorder, "a again", [*shared, *range(20, 60), 3]) == 1


def test_a_changed_last_word_gives_up_what_follows_it(model: TorchModel) -> None:
    recorder = Recorder(model)
    assert computed_by(recorder, "a", list(range(1, 31)), (9,), (9, 9)) == 30
    recorder.engine.release("a")
    assert computed_by(recorder, "b", [*range(1, 21), 60, 60], (9,)) == 2
    assert recorder.engine.kept_tokens == 0


def test_the_same_prompt_again_computes_nothing_but_its_leaf(model: TorchModel) -> None:
    recorder = Recorder(model)
    prompt = list(range(1, 31))
    computed_by(recorder, "a", prompt)
    recorder.engine.release("a")
    assert computed_by(recorder, "b", prompt) == 0
    assert recorder.rows == 1


def test_what_has_ended_leaves_first_when_the_budget_is_spent(model: TorchModel) -> None:
    recorder = Recorder(model, kv_tokens=200)
    computed_by(recorder, "old", list(range(1, 31)))
    recorder.engine.release("old")
    computed_by(recorder, "running", list(range(11, 41)))
    assert recorder.engine.kept_tokens == 30
    computed_by(recorder, "new", list(range(21, 61)) * 2)
    assert recorder.engine.kept_tokens == 0
    assert recorder.engine.cached_slots("running") > 0


def test_ended_sequences_have_a_limit_of_their_own(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_of_one = 64 * model.kv_shape.token_bytes  # 64 tokens: the smallest buffer
    monkeypatch.setattr("wanspec.engines.tree._ENDED_BYTES", 2 * bytes_of_one)
    recorder = Recorder(model)
    for first in range(4):
        computed_by(recorder, first, [first, 9, 9])
        recorder.engine.release(first)
    computed_by(recorder, "last", [50, 9])
    assert recorder.engine.kept_tokens == 6


def test_a_prompt_in_parts_is_the_prompt(model: TorchModel) -> None:
    recorder = Recorder(model)
    prompt = list(range(1, 51))
    for length in (10, 30, 50):
        recorder.check([SequenceLeaves("s", prompt, length, ((),))])
    assert recorder.last.computed == (20,)
    assert computed_by(recorder, "s", prompt, (5,), (6,)) == 0
