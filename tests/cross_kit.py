"""Small real tokenizers made in the tests: byte-level BPE as GPT-2's, SentencePiece-style BPE with byte fallback as Llama's and Gemma's, characters."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "the quick brown fox jumps over the lazy dog 12345 67890",
    "def add(a, b):\n    return a + b  # sums\n",
    "Größe, naïve café, straße; 東京は日本の首都です。 Привет, мир! مرحبا",
    "3 8 15 17#17 and 🙂🙃 emoji 👩‍👩‍👧",
] * 4


def _fast(tokenizer: Tokenizer, stop: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=stop, clean_up_tokenization_spaces=False)


@cache
def byte_level(size: int = 400, nfc: bool = False) -> Any:
    """Byte-level BPE: every text comes back byte for byte, but for `nfc`, which composes characters first, as Qwen's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False))
    return _fast(tokenizer, "<|end|>")


# How Qwen2.5 cuts a text before its merges: contractions, words with what stands before them, single digits, punctuation, line ends, spaces.
CUTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def qwen_like() -> Any:
    """Byte-level BPE behind a regular expression and NFC, with tokens of markup that are not special, as Qwen2.5's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(CUTS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False))
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return _fast(tokenizer, "<|end|>")


@cache
def sentence_pieces(dummy: bool = True) -> Any:
    """BPE over characters with a mark for spaces and byte fallback; `dummy` puts a space before every text, as Llama does, Gemma not, which has
    runs of spaces as tokens of their own."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if dummy else []
    trained.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(TEXTS[:2], trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    content = trained.model
    content.byte_fallback = True
    tokenizer = Tokenizer(content)
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if dummy else [])]
    )
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True), AddedToken("</s>", special=True)])
    if not dummy:
        tokenizer.add_tokens([AddedToken("▁" * size, special=False, normalized=False) for size in range(2, 6)])
    return _fast(tokenizer, "</s>")


KINDS = {
    "gpt2": byte_level, "gpt2 small": lambda: byte_level(300), "qwen": qwen_like, "llama": sentence_pieces, "gemma": lambda: sentence_pieces(False),
}  # fmt: skip
