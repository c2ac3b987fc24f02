"""The bytes behind a tokenizer's tokens, read from what its decoder does with them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from zoo.components.alignments import Tokens, Vocabulary
from zoo.errors import ZooError

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_MARK = "▁"


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE writes bytes: printable Latin-1 as itself, the other bytes from U+0100 on (GPT-2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + k): byte for k, byte in enumerate(rest)}}


def decoders_of(tokenizer: Any) -> set[str]:
    """The kinds of all parts of a tokenizer's decoder, and `SPACE_MARK` where it stands for a space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ZooError(f"tokenizer {type(tokenizer).__name__} has no fast version, whose decoder says which bytes a token stands for; choose a model with one")
    found: set[str] = set()

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            found.add(str(part.get("type")))
            if part.get("replacement") == SPACE_MARK or SPACE_MARK in json.dumps(part.get("pattern", ""), ensure_ascii=False):
                found.add(SPACE_MARK)
            for inner in part.get("decoders", []):
                visit(inner)

    visit(json.loads(backend.to_str()).get("decoder"))
    return found


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """A tokenizer's tokens as bytes, special ones as None.

    Raises:
        ZooError: no fast tokenizer, or no stop token.
    """
    if tokenizer.eos_token_id is None:
        raise ZooError(f"tokenizer {tokenizer.name_or_path} names no stop token, with which answers are aligned to their end")
    kinds, special = decoders_of(tokenizer), set(tokenizer.all_special_ids)
    added = dict(tokenizer.added_tokens_decoder)
    special |= {number for number, token in added.items() if token.special}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = tuple(
        None if number in special or name is None else name.encode() if number in added else _bytes(name, kinds) for number, name in enumerate(names)
    )
    return Vocabulary(pieces, int(tokenizer.eos_token_id), partial(_split, tokenizer))


def _split(tokenizer: Any, piece: bytes) -> Sequence[int]:
    """A text of bytes in tokens; () where it is no text by itself."""
    try:
        return tuple(encoded(tokenizer, piece.decode("utf-8")))
    except UnicodeDecodeError:
        return ()


def encoded(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens without any that the tokenizer adds, and without reading markup in it as special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _original(tokenizer: Any, text: bytes, ids: Sequence[int]) -> list[bytes] | None:
    """The stretches of a text from which a tokenizer made its tokens, by its own offsets; a character that several share goes to the last
    of them. None where the text is not one, or offsets leave some of it out."""
    try:
        plain = text.decode("utf-8")
    except UnicodeDecodeError:
        return None
    made = tokenizer(plain, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    if list(made.input_ids) != list(ids) or not ids:
        return None
    ends, limit = [], len(plain)
    for start, end in reversed(made.offset_mapping):
        ends.append(min(end, limit))
        limit = min(start, limit)
    ends.reverse()
    return [plain[a:b].encode() for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends[-1] == len(plain) else None


def _bytes(name: str, kinds: set[str]) -> bytes:
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return bytes(alphabet[c] for c in name) if all(c in alphabet for c in name) else name.encode()
    if "ByteFallback" in kinds and (found := BYTE.fullmatch(name)):
        return bytes([int(found.group(1), 16)])
    return (name.replace(SPACE_MARK, " ") if SPACE_MARK in kinds else name).encode()


def student_tokens(ids: Sequence[int], vocabulary: Vocabulary, stops: Sequence[int]) -> Tokens:
    """A response as it was written; a stop token counts at its end only, other special tokens have no bytes."""
    return Tokens(tuple(ids), tuple(vocabulary.pieces[i] or b"" for i in ids), bool(ids) and ids[-1] in stops)


def retokenised(student: Tokens, tokenizer: Any, vocabulary: Vocabulary) -> Tokens:
    """The text of a response in another tokenizer's tokens, with its stop token where the response ends with one.

    Bytes that are no text reach the other tokenizer as the replacement character. A space that a tokenizer puts before every text belongs to no
    token's bytes. Where a tokenizer changes a text before it splits it (NFC, say), its tokens stand for the stretches that they were made from.
    """
    text = b"".join(student.words)
    ids = encoded(tokenizer, text.decode("utf-8", errors="replace")) if text else []
    pieces = [vocabulary.pieces[i] or b"" for i in ids]
    if pieces and pieces[0][:1] == b" " and b"".join(pieces) == b" " + text:
        pieces[0] = pieces[0][1:]
    if b"".join(pieces) != text and (original := _original(tokenizer, text, ids)) is not None:
        pieces = original
    if not student.stopped:
        return Tokens(tuple(ids), tuple(pieces))
    return Tokens((*ids, vocabulary.stop), (*pieces, b""), True)
