"""The text of a file with the positions of its syntax nodes, in bytes."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from tools.mutate.operators import Mutant


@dataclass(frozen=True, slots=True)
class Token:
    """An operator or a name; `start` is its first byte, `stop` the byte after its last."""

    start: int
    stop: int
    text: str


class Code:
    """A source file. The syntax tree counts columns in bytes, the tokenizer in characters; here all is in bytes."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.content = text.encode()
        self.line_starts = [0]
        for line in text.split("\n"):
            self.line_starts.append(self.line_starts[-1] + len(line.encode()) + 1)
        self.tokens = list(self._read_tokens())

    def _read_tokens(self) -> Iterator[Token]:
        lines = self.text.split("\n")
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type in (tokenize.OP, tokenize.NAME):
                row, column = token.start
                start = self.line_starts[row - 1] + len(lines[row - 1][:column].encode())
                yield Token(start, start + len(token.string.encode()), token.string)

    def start(self, node: ast.expr | ast.stmt) -> int:
        """First byte of a node; parentheses round an expression do not belong to it."""
        return self.line_starts[node.lineno - 1] + node.col_offset

    def stop(self, node: ast.expr | ast.stmt) -> int:
        """The byte after the last of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr) -> str:
        """Text of a node."""
        return self.content[self.start(node) : self.stop(node)].decode()

    def between(self, first: ast.expr, second: ast.expr) -> str:
        """Text between two nodes."""
        return self.content[self.stop(first) : self.start(second)].decode()

    def words_between(self, start: int, stop: int) -> list[Token]:
        """Tokens in a span, parentheses left out."""
        return [
            token for token in self.tokens if start <= token.start and token.stop <= stop and token.text not in "()"
        ]

    def mutant(self, operator: str, start: int, stop: int, replacement: str) -> Mutant:
        """The file with a span replaced."""
        first = self.content.count(b"\n", 0, start) + 1
        last = self.content.count(b"\n", 0, max(start, stop - 1)) + 1
        begin, end = self.line_starts[first - 1], self.line_starts[last] - 1
        after = self.content[begin:start] + replacement.encode() + self.content[stop:end]
        return Mutant(
            file=self.file,
            start=start,
            stop=stop,
            replacement=replacement,
            operator=operator,
            line=first,
            last_line=last,
            before=self.content[begin:end].decode().strip(),
            after=after.decode().strip(),
        )
