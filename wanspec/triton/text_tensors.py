"""Text to the tensors of the contract, and back: what ``preprocessing`` and ``postprocessing`` do. Free of Triton.

The tensors are those of the models of these names that NVIDIA serves beside TensorRT-LLM (``docs/compatibility.md``).
Here B is the batch dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from wanspec.errors import InvalidRequestError
from wanspec.triton.request_tensors import Tensors, decoded
from wanspec.triton.tensorrt_llm.inputs import word_lists
from wanspec.triton.text import load_tokenizer, special_token

NO_TOKEN = -1
"""Of an end or padding token: the model has none."""


class Preprocessor:
    """Turns texts and words into token ids."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Read a model folder's tokenizer.

        Args:
            folder: of the model.
            vocab_size: columns of its logits: as many values has a bias.

        Raises:
            ModelError: the folder has no usable tokenizer.
        """
        self._tokenizer = load_tokenizer(folder)
        self._vocab_size = vocab_size
        end_id = special_token(folder, self._tokenizer, "eos_token")
        pad_id = special_token(folder, self._tokenizer, "pad_token")
        self._end_id = NO_TOKEN if end_id is None else end_id
        self._pad_id = self._end_id if pad_id is None else pad_id

    def outputs(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the outputs for a request's inputs, both by name.

        Raises:
            InvalidRequestError: names the input and what is wrong with it.
        """
        queries = [row[0] for row in _texts(tensors, "QUERY", width=1) or ()]
        batch = len(queries)
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (batch,):
                raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: the batch size of QUERY is {batch}")
        end_id = tensors.get("END_ID", np.full((batch, 1), self._end_id, dtype=np.int32))
        pad_id = tensors.get("PAD_ID", np.full((batch, 1), self._pad_id, dtype=np.int32))
        input_ids, input_lengths = self._prompts("QUERY", queries)
        decoder = _texts(tensors, "DECODER_QUERY", width=1)
        if decoder is None:
            decoder_ids, decoder_lengths = pad_id, np.ones((batch, 1), dtype=np.int32)
        else:
            decoder_ids, decoder_lengths = self._prompts("DECODER_QUERY", [row[0] for row in decoder])
        return {
            "INPUT_ID": input_ids,
            "REQUEST_INPUT_LEN": input_lengths,
            "DECODER_INPUT_ID": decoder_ids,
            "REQUEST_DECODER_INPUT_LEN": decoder_lengths,
            "BAD_WORDS_IDS": self._words(_texts(tensors, "BAD_WORDS_DICT"), batch),
            "STOP_WORDS_IDS": self._words(_texts(tensors, "STOP_WORDS_DICT"), batch),
            "EMBEDDING_BIAS": self._bias(tensors, batch),
            "REQUEST_OUTPUT_LEN": tensors["REQUEST_OUTPUT_LEN"],
            "OUT_END_ID": end_id,
            "OUT_PAD_ID": pad_id,
        }

    def _prompts(self, name: str, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids [B, n], padded on the right, and how many of each row count, [B, 1]."""
        rows: list[list[int]] = [self._tokenizer.encode(text).ids for text in texts]
        if not all(rows):
            raise InvalidRequestError(name, "is empty; at least 1 token is needed")
        ids = np.full((len(rows), max(map(len, rows))), max(self._pad_id, 0), dtype=np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, np.array([[len(tokens)] for tokens in rows], dtype=np.int32)

    def _words(self, rows: list[list[str]] | None, batch: int) -> NDArray[np.int32]:
        return word_lists([tuple(map(self._word, words)) for words in rows or [[]] * batch])

    def _word(self, word: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)

    def _bias(self, tensors: Tensors, batch: int) -> NDArray[np.float32]:
        """A bias for every token [B, vocabulary]; [B, 0] where none is asked for."""
        words, weights = _texts(tensors, "EMBEDDING_BIAS_WORDS"), tensors.get("EMBEDDING_BIAS_WEIGHTS")
        if words is None and weights is None:
            return np.zeros((batch, 0), dtype=np.float32)
        if words is None or weights is None or weights.shape != (batch, len(words[0])):
            given = ["no" if values is None else str(len(values[0])) for values in (words, weights)]
            raise InvalidRequestError(
                "EMBEDDING_BIAS_WEIGHTS",
                f"{given[1]} weights for {given[0]} EMBEDDING_BIAS_WORDS: each word needs one",
            )
        bias = np.zeros((batch, self._vocab_size), dtype=np.float32)
        for index, row in enumerate(words):
            for word, weight in zip(row, weights[index], strict=True):
                np.add.at(bias[index], list(self._word(word)), weight)
        return bias


class Postprocessor:
    """Turns token ids into texts."""

    def __init__(self, folder: Path) -> None:
        """Read a model folder's tokenizer.

        Raises:
            ModelError: the folder has no usable tokenizer.
        """
        self._tokenizer: Tokenizer = load_tokenizer(folder)

    def outputs(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the output for a request's inputs, both by name.

        OUTPUT has no batch dimension: it holds a text for each beam of each row, and clients count on that.

        Raises:
            InvalidRequestError: names the input and what is wrong with it.
        """
        tokens, lengths = tensors["TOKENS_BATCH"], tensors["SEQUENCE_LENGTH"]
        if tokens.ndim != 3:
            raise InvalidRequestError("TOKENS_BATCH", f"has shape {list(tokens.shape)}: must be [batch, beams, n]")
        if lengths.shape != tokens.shape[:2]:
            wanted = list(tokens.shape[:2])
            raise InvalidRequestError("SEQUENCE_LENGTH", f"has shape {list(lengths.shape)}: must be {wanted}")
        most = tokens.shape[2]
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= most:
            raise InvalidRequestError(
                "SEQUENCE_LENGTH", f"is {lengths.ravel().tolist()}: TOKENS_BATCH holds {most} tokens for each"
            )
        rows = zip(tokens.reshape(lengths.size, most), lengths.ravel(), strict=True)
        return {"OUTPUT": np.array([self._text(row[:length]) for row, length in rows], dtype=np.object_)}

    def _text(self, tokens: NDArray[np.int32]) -> bytes:
        if tokens.size and tokens.min() < 0:
            raise InvalidRequestError("TOKENS_BATCH", f"holds {tokens.min()}: token ids must be at least 0")
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        return text.encode()


def _texts(tensors: Tensors, name: str, width: int | None = None) -> list[list[str]] | None:
    """The strings [B, n] of an input, None where it is absent. ``width``: what n must be."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.ndim != 2 or width not in (None, tensor.shape[1]):
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [batch, {width or 'words'}]")
    return [[decoded(raw, name) for raw in row] for row in tensor]
