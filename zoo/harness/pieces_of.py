"""The bytes behind a tokenizer's tokens, read from what its decoder does with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any

from zoo.components.alignments import Tokens, Vocabulary
from zoo.errors import ZooError

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_MARK = "▁"
LEADS = ("\x01", "\n")  # texts that no merge reaches across, or few
REPLACEMENT = "\ufffd"
UNKNOWN = {"WordPiece", "BPEDecoder", "CTC"}  # decoders in which a token's text depends on its neighbours


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
    if found & UNKNOWN:
        kinds = ", ".join(sorted(found & UNKNOWN))
        raise ZooError(f"tokenizer {tokenizer.name_or_path} decodes by {kinds}, in which no token has bytes of its own; choose a model "
                       "with byte-level or sentence-piece tokens")  # fmt: skip
    return found


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """A tokenizer's tokens as bytes, special ones as None.

    Raises:
        ZooError: no fast tokenizer, or no stop token.
    """
    if tokenizer.eos_token_id is None:
        raise ZooError(f"tokenizer {tokenizer.name_or_path} names no stop token, with which answers are aligned to their end")
    kinds, special = decoders_of(tokenizer), set(tokenizer.all_special_ids)
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = tuple(None if number in special or name is None else _bytes(name, kinds) for number, name in enumerate(names))
    alone = b"".join(pieces[number] or b"" for number in encoded(tokenizer, "a"))
    leads = {lead: tuple(encoded(tokenizer, lead)) for lead in LEADS} if alone == b" a" else {}
    return Vocabulary(pieces, int(tokenizer.eos_token_id), partial(_split, tokenizer, leads))


def _split(tokenizer: Any, leads: Mapping[str, tuple[int, ...]], piece: bytes) -> Sequence[int]:
    """A text of bytes in tokens, as it stands behind other text; () where it is no text by itself. A tokenizer that puts a space before every
    text is given one of `leads` to put it before, whose tokens are known."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return ()
    for lead, known in leads.items():
        behind = encoded(tokenizer, lead + text)
        if tuple(behind[: len(known)]) == known:
            return tuple(behind[len(known) :])
    return tuple(encoded(tokenizer, text))


def encoded(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens without any that the tokenizer adds, and without reading markup in it as special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _original(tokenizer: Any, plain: str, ids: Sequence[int], pieces: Sequence[bytes]) -> list[bytes] | None:
    """The stretches of a text from which a tokenizer made its tokens, by its own offsets; a character that several share goes to the last of
    them, unless their bytes are the character's own. None where it splits the text otherwise when asked for offsets."""
    made = tokenizer(plain, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    if list(made.input_ids) != list(ids) or not ids:
        return None
    starts, limit = list[int](), len(plain)
    for start, _ in reversed(made.offset_mapping):
        limit = min(start, limit)
        starts.append(limit)
    cuts = [0]
    for (_, end), then in zip(made.offset_mapping, [*starts[-2::-1], len(plain)], strict=True):
        # What no offset names is a mark that was composed with what stands before it, or a space that belongs to what follows.
        at = min(max(end, cuts[-1]), then)
        while at < then and not plain[at].isspace():
            at += 1
        cuts.append(max(at, cuts[-1]))
    cuts[-1] = len(plain)
    found, group = [plain[a:b].encode() for a, b in pairwise(cuts)], 0
    for i, stretch in enumerate(found):
        if stretch:
            if b"".join(pieces[group : i + 1]) == stretch:
                found[group : i + 1] = pieces[group : i + 1]
            group = i + 1
    return found


def _bytes(name: str, kinds: set[str]) -> bytes:
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return bytes(alphabet[c] for c in name) if all(c in alphabet for c in name) else name.encode()
    if "ByteFallback" in kinds and (found := BYTE.fullmatch(name)):
        return bytes([int(found.group(1), 16)])
    return (name.replace(SPACE_MARK, " ") if SPACE_MARK in kinds else name).encode()


def student_tokens(ids: Sequence[int], vocabulary: Vocabulary, stops: Sequence[int]) -> Tokens:
    """A response as it was written; a stop token counts at its end only, other special tokens have no bytes."""
    pieces = tuple((vocabulary.pieces[i] or b"") if i < len(vocabulary) else b"" for i in ids)
    stopped = bool(ids) and ids[-1] in stops
    return Tokens(tuple(ids), (*pieces[:-1], b"") if stopped else pieces, stopped)


def same_tokens(student: Tokens) -> Tokens:
    """A response as a teacher with the very same tokenizer sees it: the tokens that were written, whichever way that tokenizer would split
    their text, and each with bytes, so that special tokens and parts of characters meet themselves."""
    return Tokens(student.ids, (*(piece or b"\0" for piece in student.words), *[b""] * student.stopped), student.stopped)


def retokenised(student: Tokens, tokenizer: Any, vocabulary: Vocabulary) -> Tokens:
    """The text of a response in another tokenizer's tokens, with its stop token where the response ends with one.

    Bytes that are no text reach the other tokenizer as the replacement character, and that stretch is `spoiled`. The text is split as it stands
    behind a prompt, without the space that some tokenizers put before every text; where such a space is there all the same, it belongs to no
    token's bytes. Where a tokenizer changes a text before it splits it (NFC, say), its tokens stand for the stretches that they were made from.
    """
    text = b"".join(student.words)
    plain, replaced = readable(text)
    shown = plain.encode()
    ids = list(vocabulary.split(shown)) if plain else []
    pieces = [vocabulary.pieces[i] or b"" for i in ids]
    if b"".join(pieces) != shown:
        ids = encoded(tokenizer, plain)
        pieces = [vocabulary.pieces[i] or b"" for i in ids]
        if pieces and pieces[0][:1] == b" " and b"".join(pieces) == b" " + shown:
            pieces[0] = pieces[0][1:]
        if b"".join(pieces) != shown and (original := _original(tokenizer, plain, ids, pieces)) is not None:
            pieces = original
    spoiled: tuple[tuple[int, int], ...] = ()
    if replaced and b"".join(pieces) == shown:
        ends = [_put_back(end, replaced) for end in accumulate(map(len, pieces))]
        pieces, spoiled = [text[a:b] for a, b in pairwise([0, *ends])], tuple((low, high) for low, high, _ in replaced)
    if not student.stopped:
        return Tokens(tuple(ids), tuple(pieces), False, spoiled)
    return Tokens((*ids, vocabulary.stop), (*pieces, b""), True, spoiled)


def readable(text: bytes) -> tuple[str, list[tuple[int, int, int]]]:
    """A text of bytes with the replacement character for every stretch that is no text, and these stretches: from, to, and where the
    replacement begins in the readable text's bytes."""
    found, replaced, at, size = list[str](), list[tuple[int, int, int]](), 0, 0
    while True:
        try:
            return "".join([*found, text[at:].decode("utf-8")]), replaced
        except UnicodeDecodeError as error:
            found += [text[at : at + error.start].decode("utf-8"), REPLACEMENT]
            size += error.start
            replaced.append((at + error.start, at + error.end, size))
            size, at = size + len(REPLACEMENT.encode()), at + error.end


def _put_back(end: int, replaced: Sequence[tuple[int, int, int]]) -> int:
    """Where a place of the readable text lies in the original; one within a replacement lies behind what that replaces."""
    wide, moved = len(REPLACEMENT.encode()), 0
    for low, high, place in replaced:
        if place < end < place + wide:
            return high
        if place < end:
            moved += high - low - wide
    return end + moved
