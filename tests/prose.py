"""Reads sentences from pages and from Python files, and finds those that are hard to read."""

import ast
import io
import re
import tokenize

MOST_WORDS = 35  # in a sentence

# Words that readers have to decode, with the plain ones.
WORDS = {
    r"dear(er|est)?": "expensive",
    r"borne|bears": "tolerates",
    r"besides?": "next to, in addition to",
    r"but for": "except",
    r"(goes|went|go) on": "continues",
    r"stands? (in|for|with|there|behind)": "is, is stored",
    r"turn(s|ed)? round": "reverses, ranks in the wrong order",
    r"th(at|ose) of (the|which)": "name the thing",
    r"the one (before|after)": "name the thing",
    r"what is [a-z]+ed": "name the thing",
    r"whoever|nobody|no one": "say who",
    r"is as with": "compare with a verb",
}
DECODED = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)

_BLOCK = re.compile(r"^\s*([-*] |\d+\. |#+ |> |[\w`*, ]{1,40}: )")
_END = re.compile(r"(?<!\bal)(?<!\beq)(?<!e\.g)(?<!i\.e)[.!?][)*`\"']*\s+")


def paragraphs(text):
    """Joins the lines of each paragraph and item; leaves out tables, code and equations."""
    text = re.sub(r"(?ms)^\s*(```|\$\$).*?\1.*?$", "\n", text)
    text = re.sub(r"(?m)^( *)\.\. math::.*\n(?:\1 +.*\n?|\s*\n)*", "\n", text)
    found = [[]]
    for line in text.splitlines():
        words = line.strip()
        if not words or _BLOCK.match(line):
            found.append([])
        is_row = re.search(r"\S {3,}\S", words)  # of a table in a docstring
        if words and not is_row and not words.startswith(("|", "=", ">>>", "...", "![", "..")):
            found[-1].append(words.removeprefix("- "))
    return [" ".join(lines) for lines in found if lines]


def sentences(text):
    """Sentences of a text in Markdown or of a docstring."""
    for paragraph in paragraphs(text):
        plain = re.sub(r"\]\([^)]*\)", "]", paragraph)  # the words of a link, not its address
        yield from filter(None, (part.strip() for part in _END.split(plain)))


def faults(text):
    """What is wrong with the sentences of a text, one line each."""
    for sentence in sentences(text):
        length = sum(any(map(str.isalnum, word)) for word in sentence.split())
        if length > MOST_WORDS:
            yield f"{length} words: {sentence}"
        without_code = re.sub(r"`[^`]*`", "", sentence)
        for match in DECODED.finditer(without_code):
            yield f"'{match[0]}': {sentence}"


def documented(source):
    """Docstrings of a module and all that is in it, as pairs of name and text."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def messages(source):
    """Texts of the exceptions that a file raises."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def comments(source):
    """Comments of a file, those of adjacent lines joined."""
    found, last = [], None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            is_alone = token.line.lstrip().startswith("#")
            if is_alone and last == token.start[0] - 1:
                found[-1] += " " + text
            else:
                found.append(text)
            last = token.start[0] if is_alone else None
    return found
