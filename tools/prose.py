"""Sentences of plain prose out of books and HTML pages."""

import html
import re

MAX_LINE_LENGTH = 2000
MAX_SENTENCE_LENGTH = 600

TITLES = "Mr|Mrs|Ms|Dr|Messrs|Hon|Gen|Col|Capt|Lt|Gov|Sen|Rep|St|No|vs|Jr|Sr"
ABBREVIATION = re.compile(rf"\b(?:{TITLES}|[A-Z])\.$")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")

TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "—": " -- ", "–": "-", "…": "...", "\u00a0": " "}
)
HIDDEN = re.compile(r"<(table|pre|script|style|nav|footer|svg)\b.*?</\1>|<!--.*?-->", re.S)
PARAGRAPH = re.compile(r"<p(?:\s[^>]*)?>(.*?)(?=</?(?:p|div|ul|ol|dl|li|dd|h\d)\b)", re.S)
TAG = re.compile(r"<[^>]*>")

WORD = re.compile(
    r"[(\"'\[]*(?:(?:[A-Z]|Mc|Mac|O')?[a-z]+|[A-Z]+s?|[A-Z]\.|\d[\d,.:/]*\d%?|\d+%?)"
    r"(?:['/-](?:[A-Z]?[a-z]+|[A-Z]+|\d+))*'?[.,;:!?)\"'\]]*|-{1,2}|&"
)
FUNCTION_WORDS = re.compile(r"\b(?:the|an?|of|to|and|in|is|are|was|for|that|it|as|be|on|by)\b")
PRIVATE = re.compile(r"\S@\S|://|www\.|\+?\d[\d ()-]{8,}\d")


def split_sentences(text):
    """Return the sentences of `text`, none longer than `MAX_LINE_LENGTH` characters."""
    sentences = []
    start = 0
    for match in SENTENCE_END.finditer(text):
        if ABBREVIATION.search(text[max(start, match.start() - 12) : match.start()]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [line for sentence in sentences for line in wrap(sentence) if line]


def wrap(sentence):
    """Cut an overlong sentence at its last semicolon, comma or space that fits."""
    while len(sentence) > MAX_LINE_LENGTH:
        head = sentence[:MAX_LINE_LENGTH]
        cut = next(c for c in (head.rfind("; "), head.rfind(", "), head.rfind(" ")) if c > 0) + 1
        yield sentence[:cut].strip()
        sentence = sentence[cut:].strip()
    yield sentence


def plain(text):
    """Return `text` on one line, with the quotation marks and dashes of a keyboard."""
    return " ".join(text.translate(TYPOGRAPHY).split())


def is_prose(sentence, least_words=5):
    """Whether `sentence` is one whole English sentence of words, without code or addresses."""
    if not re.match(r"[\"'(]?[A-Z]", sentence) or not re.search(r"[.!?][\"')]*$", sentence):
        return False
    words = sentence.split()
    return (
        len(words) >= least_words
        and len(sentence) <= MAX_SENTENCE_LENGTH
        and not PRIVATE.search(sentence)
        and all(WORD.fullmatch(word) for word in words)
        and bool(FUNCTION_WORDS.search(sentence))
        and sentence.count("(") == sentence.count(")")
        and sum(character.islower() for character in sentence) > 0.6 * len(sentence)
    )


def html_paragraphs(page):
    """Return the paragraphs of an HTML page as plain text, without tables and listings."""
    page = HIDDEN.sub("<p>", page)
    paragraphs = (TAG.sub("", paragraph) for paragraph in PARAGRAPH.findall(page + "<p>"))
    return [plain(html.unescape(paragraph)) for paragraph in paragraphs]


def book_paragraphs(text):
    """Return the paragraphs of a book of Project Gutenberg, which empty lines divide."""
    return [plain(paragraph.replace("_", "")) for paragraph in re.split(r"\n\s*\n", text)]
