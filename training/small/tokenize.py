"""Train the tokenizer and turn the corpus into token files.

python -m training.small.tokenize --data data/small
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

END = "<|endoftext|>"
"""Token 0: ends every document."""

VOCABULARY = 4096
CONTEXT = 1024


def read(path: Path) -> list[str]:
    """Return the documents of a file of ``corpus``."""
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def train_tokenizer(documents: list[str], size: int = VOCABULARY) -> Tokenizer:
    """Return a byte-level BPE tokenizer of ``size`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpus; tokens are written there too")
    parser.add_argument("--tokenizer", type=Path, help="use this folder's tokenizer instead of training one")
    parser.add_argument("--smoke", action="store_true", help="no difference: a small corpus takes a second")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.tokenizer:
        tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(read(options.data / "train.jsonl"))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=CONTEXT
    )
    wrapped.save_pretrained(options.data / "tokenizer")
    for name in ("train", "union", "austen"):
        documents = tokenizer.encode_batch(read(options.data / f"{name}.jsonl"))
        ids = [token for document in documents for token in (*document.ids, 0)]
        save_file({"tokens": torch.tensor(ids, dtype=torch.int16)}, options.data / f"{name}.safetensors")
        logger.info("%s: %d tokens", name, len(ids))


if __name__ == "__main__":
    main()
