"""The real SmolLM2: fetched and converted on first use (93 MB, about 30 s), from the cache afterwards."""

import pytest

from wanspec.models import PAIRS, check_pair, fingerprint, resolve, verify

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def pair():
    return tuple(resolve(name) for name in PAIRS["smollm2"])


def test_the_pair_is_whole_and_fits(pair):
    assert tuple(verify(name) for name in PAIRS["smollm2"]) == pair
    check_pair(*pair)
    assert fingerprint(pair[0]).vocab_size == 49_152


def test_the_target_answers_by_its_chat_template(pair):
    tokenizer = transformers.AutoTokenizer.from_pretrained(pair[0])
    model = transformers.AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def test_the_draft_shares_the_embeddings_and_predicts_the_target(pair):
    target, draft = (transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in pair)
    assert torch.equal(target.get_input_embeddings().weight, draft.get_input_embeddings().weight)
    assert draft.get_output_embeddings().weight.data_ptr() == draft.get_input_embeddings().weight.data_ptr()
    tokenizer = transformers.AutoTokenizer.from_pretrained(pair[1])
    messages = [{"role": "user", "content": "Explain how rain forms."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = target.generate(**prompt, max_new_tokens=24, do_sample=False)
    start = prompt["input_ids"].shape[1]
    with torch.inference_mode():
        best = draft(output).logits[0, start - 1 : -1].argmax(dim=-1)
    # Far above chance (1 in 49,152) and below what the draft reaches on prompts like this (about 0.5).
    assert (best == output[0, start:]).float().mean() > 0.2
