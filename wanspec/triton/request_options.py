"""Sampling and options of a request of the endpoint. ``docs/sampling.md`` has what each means over rounds."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace

from wanspec.core.options import MAX_WORDS, GenerationOptions, Words
from wanspec.core.sampling import Sampling
from wanspec.errors import InvalidRequestError
from wanspec.triton.request_tensors import Tensors, number, text, texts, whole
from wanspec.triton.text import TextCodec

REFUSED: Mapping[str, str] = {
    "n": "send one request for each answer, with seeds of their own",
    "best_of": "send one request for each answer, with seeds of their own",
    "length_penalty": "it belongs to beam search",
    "early_stopping": "it belongs to beam search",
    "beam_search_diversity_rate": "it belongs to beam search",
    "top_p_decay": "top-p would depend on which round a token falls in",
    "top_p_min": "it belongs to top_p_decay",
    "top_p_reset_ids": "it belongs to top_p_decay",
    "logprobs": "send return_log_probs",
    "return_context_logits": "the endpoint has no output for them; ask the target model",
    "return_generation_logits": "the endpoint has no output for them; ask the target model",
    "use_draft_logits": "the endpoint's own sampling mode says whether drafts need them",
    "embedding_bias_words": "send logit_bias",
    "embedding_bias_weights": "send logit_bias",
    "stop": "send stop_words",
    "guided_decoding_guide": "the guide's state is not kept over rounds",
    "guided_decoding_guide_type": "the guide's state is not kept over rounds",
}
"""Options that others' endpoints have, and what to do without them. Over gRPC Triton refuses them as unknown inputs."""

_SEED_BITS = 53
"""Of a seed drawn here: JSON readers keep that many."""


def refuse_options(names: Mapping[str, object]) -> None:
    """Refuse options by name that Triton's HTTP endpoint passes on as parameters: nobody would look at them.

    Raises:
        InvalidRequestError: names the first.
    """
    for name, instead in REFUSED.items():
        if name in names:
            raise InvalidRequestError(name, f"is not supported: {instead}")


def read_sampling(tensors: Tensors) -> Sampling:
    """Temperature, top-k, top-p and seed. A seed that is not given is drawn, where it matters.

    Raises:
        InvalidRequestError: names the input, what was given and the limit.
    """
    seed = whole(tensors, "seed", None)
    sampling = Sampling(
        number(tensors, "temperature", 0.0),
        whole(tensors, "top_k", 0),
        number(tensors, "top_p", 1.0),
        seed or 0,
    )
    return sampling if sampling.greedy or seed is not None else replace(sampling, seed=secrets.randbits(_SEED_BITS))


def read_options(tensors: Tensors, codec: TextCodec) -> GenerationOptions:
    """What the answer is to observe. Words become tokens as the tokenizer splits them where nothing is before them.

    Raises:
        InvalidRequestError: names the input and what is wrong.
    """
    return GenerationOptions(
        min_tokens=whole(tensors, "min_tokens", 0),
        stop_words=_words(tensors, "stop_words", codec),
        bad_words=_words(tensors, "bad_words", codec),
        repetition_penalty=number(tensors, "repetition_penalty", 1.0),
        presence_penalty=number(tensors, "presence_penalty", 0.0),
        frequency_penalty=number(tensors, "frequency_penalty", 0.0),
        logit_bias=_logit_bias(text(tensors, "logit_bias", "")),
    )


def _words(tensors: Tensors, name: str, codec: TextCodec) -> Words:
    given = texts(tensors, name)
    if len(given) > MAX_WORDS:
        raise InvalidRequestError(name, f"{len(given)} words, the limit is {MAX_WORDS}")
    return tuple(codec.word(word) for word in given)


def _logit_bias(raw: str) -> tuple[tuple[int, float], ...]:
    if not raw:
        return ()
    try:
        given = json.loads(raw)
        return tuple((int(token), float(bias)) for token, bias in given.items())
    except (ValueError, TypeError, AttributeError):
        raise InvalidRequestError(
            "logit_bias", 'is not a JSON object of token ids and numbers such as {"42": -5}'
        ) from None
