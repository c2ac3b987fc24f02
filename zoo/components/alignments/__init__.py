"""Other tokenizers: which positions of two tokenisations pair (`alignment`), and which entries of the two vocabularies (`columns`)."""

from zoo.components.alignments.base import Alignment, Columns, Pairing, Rows, TextAlignment
from zoo.components.alignments.columns import Event, JointRank, Projected, Rank, Shared, TopMapped, Units
from zoo.components.alignments.pairings import BytePrefix, ByteSpans, Positions, PrefixCover, RunningText, TimeWarping, WholeResponse
from zoo.components.alignments.spans import Span, Tokens
from zoo.components.alignments.vocabulary import Vocabularies, Vocabulary

__all__ = [
    "Alignment", "BytePrefix",
    "ByteSpans", "Columns", "Event", "JointRank", "Pairing", "Positions", "PrefixCover", "Projected", "Rank", "Rows", "RunningText", "Shared",
    "Span", "TextAlignment", "TimeWarping", "Tokens", "TopMapped", "Units", "Vocabularies", "Vocabulary", "WholeResponse",
]  # fmt: skip
