"""A query's text to an Expression: the part of PromQL that is answered here. What is not is named.

expression  = terms of + - ; * / % ; ^ (binds to the right), with the usual precedence
term        = number | -term | (expression) | selector | function(selector[5m]) | sum by (label, …) (expression)
selector    = metric | metric{label="…", …} | {label=~"…", …}
"""

from __future__ import annotations

from control_plane.api.prometheus.expression import (
    AGGREGATIONS,
    FUNCTIONS,
    Aggregate,
    Arithmetic,
    Call,
    Expression,
    Matcher,
    Number,
    QueryError,
    Selector,
    is_scalar,
)
from control_plane.api.prometheus.tokens import Token, duration_ms, tokens, unquoted

DEEPEST = 50
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "%": 2, "^": 4}
NEGATION = 3
NUMBERS = {"inf": float("inf"), "nan": float("nan")}
OTHER_SIGNS = ("==", "!=", ">", "<", ">=", "<=", "and", "or", "unless", "atan2", "offset", "@")
CAN = f"functions: {', '.join(FUNCTIONS)}; aggregations: {', '.join(AGGREGATIONS)}"


def parse(text: str) -> Expression:
    """Raises QueryError with the place and what is wrong there."""
    parser = _Parser(tokens(text))
    found = parser.expression(0)
    parser.expect("end")
    return found


def parse_selector(text: str) -> Selector:
    """What `match[]` holds."""
    parser = _Parser(tokens(text))
    found = parser.selector()
    parser.expect("end")
    return found


class _Parser:
    def __init__(self, words: list[Token]) -> None:
        self._words = words
        self._next = 0
        self._depth = 0

    # --- words -----------------------------------------------------------------------------------------

    @property
    def _word(self) -> Token:
        return self._words[self._next]

    def _take(self) -> Token:
        taken = self._word
        self._next += taken.kind != "end"
        return taken

    def _took(self, sign: str) -> bool:
        found = self._word.text == sign and self._word.kind in {"sign", "word"}
        if found:
            self._next += 1
        return found

    def expect(self, what: str) -> Token:
        """Of this kind, or this very sign."""
        word = self._word
        if word.kind == what or (word.kind == "sign" and word.text == what):
            return self._take()
        if word.text in OTHER_SIGNS and word.kind != "string":
            raise _wrong(word, f"{word.text} is not answered here; arithmetic with numbers is: + - * / % ^")
        raise _wrong(word, f"found {word.text[:40]!r} where {_named(what)} was expected")

    # --- expressions -----------------------------------------------------------------------------------

    def expression(self, least: int) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _wrong(self._word, f"more than {DEEPEST} expressions within each other")
        left = self._term()
        while self._word.kind == "sign" and PRECEDENCE.get(self._word.text, 0) > least:
            sign = self._take()
            binds = PRECEDENCE[sign.text]
            right = self.expression(binds - 1 if sign.text == "^" else binds)
            if not is_scalar(left) and not is_scalar(right):
                raise _wrong(sign, "one side has to be a number: series with series are not answered here")
            left = Arithmetic(sign.text, left, right)
        self._depth -= 1
        return left

    def _term(self) -> Expression:
        word = self._word
        if self._took("-"):
            return Arithmetic("*", Number(-1.0), self.expression(NEGATION))
        if self._took("+"):
            return self.expression(NEGATION)
        if self._took("("):
            inside = self.expression(0)
            self.expect(")")
            return inside
        if word.kind == "number":
            return Number(_number(self._take()))
        if word.kind == "word" and word.text.lower() in NUMBERS:
            return Number(NUMBERS[self._take().text.lower()])
        if word.kind == "word" and self._begins_call():
            return self._call()
        if word.kind == "string":
            raise _wrong(word, "a string alone is no answer")
        found = self.selector()
        if self._word.text == "[":
            raise _wrong(self._word, f"a range has to stand in a function; {CAN}")
        return found

    def _begins_call(self) -> bool:
        following = self._words[self._next + 1]
        aggregates = self._word.text.lower() in AGGREGATIONS and following.text.lower() in {"by", "without"}
        return following.text == "(" or aggregates

    def _call(self) -> Expression:
        word = self._take()
        if word.text.lower() in AGGREGATIONS:
            return self._aggregate(word.text.lower())
        if word.text not in FUNCTIONS:
            raise _wrong(word, f"{word.text} is not answered here; {CAN}")
        self.expect("(")
        of = self.selector()
        self.expect("[")
        range_ms = duration_ms(self.expect("duration").text)
        if self._word.text.startswith(":"):
            raise _wrong(self._word, "subqueries are not answered here")
        self.expect("]")
        self.expect(")")
        return Call(word.text, of, range_ms)

    def _aggregate(self, how: str) -> Aggregate:
        grouping = self._grouping()
        self.expect("(")
        at = self._word
        of = self.expression(0)
        self.expect(")")
        if is_scalar(of):
            raise _wrong(at, f"{how} is of series, and this is a number")
        labels, without = grouping or self._grouping() or ((), False)
        return Aggregate(how, labels, without, of)

    def _grouping(self) -> tuple[tuple[str, ...], bool] | None:
        word = self._word.text.lower()
        if self._word.kind != "word" or word not in {"by", "without"}:
            return None
        self._take()
        self.expect("(")
        labels: list[str] = []
        while not self._took(")"):
            labels.append(self._label())
            if not self._took(","):
                self.expect(")")
                break
        return tuple(labels), word == "without"

    # --- selectors -------------------------------------------------------------------------------------

    def selector(self) -> Selector:
        name = self._take() if self._word.kind == "word" else None
        matchers = [Matcher("__name__", "=", name.text)] if name is not None else []
        if name is None or self._word.text == "{":
            self.expect("{")
            while not self._took("}"):
                matchers.append(self._matcher(named=name is not None))
                if not self._took(","):
                    self.expect("}")
                    break
        return Selector(tuple(matchers))

    def _matcher(self, *, named: bool) -> Matcher:
        at = self._word
        label = self._label()
        if named and label == "__name__":
            raise _wrong(at, "the metric is named before the brace already")
        how = self._take()
        if how.kind != "sign" or how.text not in {"=", "!=", "=~", "!~"}:
            raise _wrong(how, "a label is followed by =, !=, =~ or !~")
        return Matcher(label, how.text, unquoted(self.expect("string")))  # type: ignore[arg-type]

    def _label(self) -> str:
        word = self.expect("word")
        if ":" in word.text:
            raise _wrong(word, "a label has letters, digits and _ only")
        return word.text


def _number(word: Token) -> float:
    return float(int(word.text, 16)) if word.text[:2].lower() == "0x" else float(word.text)


def _named(what: str) -> str:
    return {
        "end": "the end", "word": "a name", "string": "a quoted string", "duration": "a duration as 5m",
        "{": "a metric or a number",
    }.get(what, repr(what))  # fmt: skip


def _wrong(word: Token, text: str) -> QueryError:
    return QueryError(f"Character {word.at + 1}: {text}.")
