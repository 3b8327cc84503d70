"""BERT's vocab.txt: a token a line, the first one with id 0.

Nothing in it marks special tokens: they are those of BERT that are there, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]".
"""

from __future__ import annotations

from pathlib import Path

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_text
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary
from gollm.tokenizers.wordpiece import SPECIAL_TOKENS, WordPieceTokenizer, template_of


def recognises(file: TokenizerFile) -> bool:
    return file.path.suffix == ".txt"


def read(file: TokenizerFile, lowercase: bool | None = None) -> WordPieceTokenizer:
    """Raises TokenizerError for a file that is no such vocabulary."""
    path = file.path
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if len(lines) > MAX_VOCAB_SIZE:
        raise TokenizerError(f"{path}: {len(lines)} lines; a vocabulary has up to {MAX_VOCAB_SIZE} tokens")
    tokens = [line.rstrip() for line in lines]
    special = {token: i for i, token in enumerate(tokens) if token in SPECIAL_TOKENS}
    if "[UNK]" not in special:
        raise TokenizerError(f"{path} is no vocabulary of WordPiece: it has no line [UNK]")
    if lowercase is None:
        lowercase = not any(token != token.lower() for token in tokens if token not in special and token[0:1] != "[")
    with naming(path):
        tokenizer = WordPieceTokenizer(
            Vocabulary.of(token.encode() for token in tokens),
            special,
            lowercase=lowercase,
            strip_accents=lowercase,
            **template_of(special),
        )
        tokenizer.check()
    return tokenizer


def to_files(tokenizer: WordPieceTokenizer, path: Path) -> dict[Path, bytes]:
    lines: list[str] = []
    for i, token in enumerate(tokenizer.vocabulary):
        text = token.decode("utf-8", "replace")
        if text.encode() != token or text != text.rstrip() or "\n" in text:
            raise TokenizerError(
                f"cannot write {path}: token {i} is {shorten(token)}, which can't stand in a line of text"
            )
        lines.append(text + "\n")
    return {path: "".join(lines).encode()}


FORMAT = TokenizerFormat("bert", recognises, read, (WordPieceTokenizer,), to_files, ("vocab.txt",))
