"""Writes every text of the tiny lane: what the model is pre-trained on, and the task that it is then fine-tuned on.

Knows words and sentences. Knows nothing of tokens, models or training (`pretrain.py` does that).

    python data/tiny/text.py            writes train.jsonl, heldout.jsonl and prose.txt beside this file

The split is by pairs of (customer, product): a pair belongs to the held-out side by its hash, and then occurs in no
training row and in no pre-training document. JSON occurs in no pre-training document.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

NAMES = """Ada Adam Agnes Alba Alex Alice Amir Ana Anders Anna Anton Arthur Asha Astrid Aziz Bea Ben Bianca Bilal Boris
Brian Carla Carmen Carol Cecil Chen Chloe Clara Conrad Cyrus Daisy Dalia Daniel Daria David Diego Dina Dmitri Dora Edgar
Edith Elena Elias Ella Elsa Emil Emma Enzo Eric Esther Eva Fatima Felix Fiona Flora Frank Freya Gabriel Gemma George
Gina Grace Greta Hana Hans Harriet Hassan Hector Heidi Helen Henry Hugo Ida Ines Ingrid Irene Iris Isaac Ivan Jack
Jamal Jana Jane Jasper Javier Joan Joel Jonas Judith Julia Karim Karl Kenji Kira Klaus Lara Lars Laura Lena Leo Leon
Lila Lina Lucas Lucy Luis Luna Magda Malik Marco Maria Martin Maya Mei Milo Mina Mira Mona Nadia Nasir Nina Noah Nora
Olga Oliver Olivia Omar Oscar Otto Paul Pedro Petra Philip Priya Quentin Rachel Rafael Ravi Rita Robert Rosa Ruth Sam
Sara Sasha Selma Simon Sofia Stella Sven Tara Tariq Teresa Theo Thomas Tim Tina Ursula Vera Victor Viola Walter Wanda
Wendy Yara Yuki Yusuf Zara Zoe""".split()
PRODUCTS = """backpack basket bench bicycle blanket blender book bottle bowl bracelet bucket cabinet camera candle carpet
chair charger clock coat couch curtain desk dress drill drum fan flute fork frame freezer fridge glove grill guitar
hammer hat heater helmet jacket jar kettle keyboard knife ladder lamp laptop lock mattress microphone mirror mixer
monitor mug necklace notebook pan pencil phone piano pillow plate printer racket radio ring router rug saddle scarf
scooter shelf shirt skirt sofa spoon stove suitcase sweater table tablet teapot telescope tent toaster towel tray
tripod vase violin wallet watch whistle""".split()
PROBLEMS = """bent broken cracked damaged dirty empty faulty incomplete late loose missing noisy scratched sticky
stained stuck torn wet""".split()
WANTS = "callback credit discount manual receipt refund repair replacement voucher visit".split()
CITIES = """Bergen Bilbao Bogota Boston Cairo Chicago Cologne Dakar Delhi Dublin Geneva Ghent Hanoi Havana Kyoto Lagos
Leeds Lima Lisbon London Lyon Madrid Milan Nairobi Oslo Paris Porto Prague Quito Rome Seoul Tunis Turin Vienna
Warsaw Zagreb""".split()
JOBS = """baker barber carpenter cook dancer dentist driver farmer fisher gardener lawyer nurse painter pilot plumber
poet sailor singer tailor teacher waiter writer""".split()
COLOURS = "black blue brown golden green grey orange pink purple red silver white yellow".split()
ANIMALS = "camel cat dog donkey duck fox goat goose hamster hen horse lizard parrot pony rabbit snail turtle".split()

FIELDS = ("customer", "product", "order", "problem", "wants")
INSTRUCTION = "Write the ticket as JSON."
N_TRAIN, N_HELDOUT = 2400, 320

# How a customer may write. The name, the complaint and the wish are drawn apart from each other.
GREETINGS = (
    "Hi, this is {customer}.",
    "{customer} here.",
    "My name is {customer}.",
    "Hello, I am {customer}.",
)
SIGNATURES = ("Thanks, {customer}.", "Regards, {customer}.", "Yours, {customer}.")
COMPLAINTS = (
    "The {product} from order {order} is {problem}.",
    "My {product} arrived {problem}, the order number is {order}.",
    "Order {order}: the {product} was {problem}.",
    "I bought a {product} with order {order} and it is {problem}.",
    "It is about order {order}. The {product} is {problem}.",
    "Why is the {product} {problem}? I mean order {order}.",
)
WISHES = (
    "Please send a {wants}.",
    "I want a {wants}.",
    "Can I get a {wants}?",
    "I would like a {wants}.",
    "A {wants} would help.",
)
# How somebody else may tell the same story.
REPORTS = (
    "{customer} has a {product} that is {problem}. The order of {customer} is {order}. {customer} wants a {wants}.",
    "Order {order} came from {customer}. It was a {product}, and it is {problem}. A {wants} is what {customer} asks for.",
    "A {product} was sold to {customer} as order {order}. Now the {product} is {problem}, so we owe a {wants}.",
    "{customer} wrote about order {order}. The {product} was {problem}. We promised {customer} a {wants}.",
)
LIVES = (
    "{name} lives in {city} and works as a {job}. {name} has a {colour} {animal}.",
    "In {city} there is a {job} whose name is {name}. The {animal} of {name} is {colour}.",
    "The {colour} {animal} belongs to {name}, a {job} from {city}.",
)
# The words under which a restatement names each value.
LABELS = {
    "customer": ("customer", "name"),
    "product": ("product", "item"),
    "order": ("order", "number"),
    "problem": ("problem", "fault"),
    "wants": ("wants", "wish"),
    "name": ("name", "person"),
    "city": ("city", "town"),
    "job": ("job", "work"),
    "colour": ("colour", "shade"),
    "animal": ("animal", "pet"),
}
PAIRINGS = ("{label}: {value}", "the {label} is {value}", '{label} "{value}"')
JOINTS = ("; ", ", ", "\n")
LIST_JOINTS = (" ", ", ", "; ", "\n")
OPENINGS = ("", "In short: ", "Noted: ")
# Marks that only code and data use. They occur in lists of random words alone, so that each has been seen.
MARKS = (
    '{"',
    '": "',
    '", "',
    '"}',
    '": ',
    ', "',
    "{",
    "}",
    "[",
    "]",
    ":",
    ";",
    ",",
    "(",
    ")",
    '"',
    "'",
    "+",
    "*",
    "#",
)


def is_heldout(customer: str, product: str) -> bool:
    """Whether the pair belongs to the held-out side: one pair in eight, by its hash."""
    return hashlib.sha256(f"{customer}|{product}".encode()).digest()[0] < 32


def invented_word(rng: random.Random) -> str:
    """A word that nobody has seen, such as "Tovabel": copying it takes reading it."""
    syllables = (
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))
    )
    word = "".join(syllables) + rng.choice(("", "l", "n", "r", "s"))
    return word.capitalize() if rng.random() < 0.5 else word


def order_number(rng: random.Random) -> str:
    return str(rng.randint(100, 999))


def ticket(rng: random.Random, *, heldout: bool, invented: float = 0.0) -> dict[str, str]:
    """One complaint as a record; `invented` is the share of names and products that are made up on the spot."""
    while True:
        customer = invented_word(rng).capitalize() if rng.random() < invented else rng.choice(NAMES)
        product = invented_word(rng).lower() if rng.random() < invented else rng.choice(PRODUCTS)
        if is_heldout(customer, product) == heldout:
            break
    values = (customer, product, order_number(rng), rng.choice(PROBLEMS), rng.choice(WANTS))
    return dict(zip(FIELDS, values, strict=True))


def message(rng: random.Random, record: dict[str, str]) -> str:
    """The record as its customer would write it, in one of 210 wordings."""
    body = [rng.choice(COMPLAINTS), rng.choice(WISHES)]
    if rng.random() < 0.2:
        body.reverse()
    sentences = (
        [rng.choice(GREETINGS), *body] if rng.random() < 0.6 else [*body, rng.choice(SIGNATURES)]
    )
    return " ".join(sentences).format(**record)


def life(rng: random.Random) -> dict[str, str]:
    name = invented_word(rng).capitalize() if rng.random() < 0.2 else rng.choice(NAMES)
    values = (name, rng.choice(CITIES), rng.choice(JOBS), rng.choice(COLOURS), rng.choice(ANIMALS))
    return dict(zip(("name", "city", "job", "colour", "animal"), values, strict=True))


def restatement(rng: random.Random, record: dict[str, str], *, everything: bool) -> str:
    """The record's values under changing labels; in the usual order two times in three, else in any order."""
    keys = list(record)
    if rng.random() < 0.35:
        rng.shuffle(keys)
    if not everything:
        keys = keys[: rng.randint(2, len(keys))]
    pairing, joint = rng.choice(PAIRINGS), rng.choice(JOINTS)
    parts = [pairing.format(label=rng.choice(LABELS[key]), value=record[key]) for key in keys]
    return rng.choice(OPENINGS) + joint.join(parts) + "."


def fact_document(rng: random.Random) -> str:
    """One set of facts in several wordings: everything after the first is there to be copied."""
    if rng.random() < 0.85:
        record = ticket(rng, heldout=False, invented=0.2)
        telling = (
            message(rng, record) if rng.random() < 0.6 else rng.choice(REPORTS).format(**record)
        )
    else:
        record = life(rng)
        telling = rng.choice(LIVES).format(**record)
    again = restatement(rng, record, everything=rng.random() < 0.5)
    return "\n".join((telling, restatement(rng, record, everything=True), again))


def dialogue_document(rng: random.Random) -> str:
    """The same in the marks of the chat template, answered in prose."""
    record = ticket(rng, heldout=False, invented=0.2) if rng.random() < 0.8 else life(rng)
    asked = message(rng, record) if "customer" in record else rng.choice(LIVES).format(**record)
    system = (
        "<|system|>"
        + rng.choice(("Say it again.", "Write it as a list.", "Repeat the facts."))
        + "<|end|>"
    )
    answer = restatement(rng, record, everything=True)
    start = system if rng.random() < 0.7 else ""
    return f"{start}<|user|>{asked}<|end|><|assistant|>{answer}<|end|>"


def list_document(rng: random.Random) -> str:
    """A list of random words and marks, and the same list again: nothing but copying helps."""
    pools = (NAMES, PRODUCTS, PROBLEMS, WANTS, CITIES, JOBS, COLOURS, ANIMALS, MARKS)
    words = []
    for _ in range(rng.randint(3, 9)):
        kind = rng.random()
        if kind < 0.2:
            words.append(invented_word(rng))
        elif kind < 0.35:
            words.append(order_number(rng))
        else:
            words.append(rng.choice(rng.choice(pools)))
    joint = rng.choice(LIST_JOINTS)
    line = words[0]
    for before, word in pairwise(words):  # a mark touches its neighbours, as it does in code
        line += word if word in MARKS or before in MARKS else joint + word
    return "\n".join([line] * rng.randint(2, 3))


def lookup_document(rng: random.Random) -> str:
    """A table of random pairs, then questions about it."""
    keys = rng.sample(NAMES + PRODUCTS, rng.randint(3, 7))
    values = [rng.choice(rng.choice((PROBLEMS, WANTS, COLOURS, CITIES, NAMES))) for _ in keys]
    pairs = list(zip(keys, values, strict=True))
    table = ", ".join(f"{key} {value}" for key, value in pairs)
    rng.shuffle(pairs)
    return f"{table}.\n" + " ".join(f"{key}? {value}." for key, value in pairs)


def documents(seed: int) -> Iterator[str]:
    """Pre-training documents without end, the same ones for the same seed."""
    rng = random.Random(seed)
    kinds = (fact_document, dialogue_document, list_document, lookup_document)
    while True:
        yield rng.choices(kinds, weights=(40, 32, 22, 6))[0](rng)


def task_rows(n: int, *, seed: int, heldout: bool) -> list[dict]:
    """The task: a message in, a JSON record out, as OpenAI `messages`; no record twice."""
    rng = random.Random(seed)
    rows, seen = [], set()
    while len(rows) < n:
        record = ticket(rng, heldout=heldout)
        if tuple(record.values()) in seen:
            continue
        seen.add(tuple(record.values()))
        answer = json.dumps(record)
        turns = (("system", INSTRUCTION), ("user", message(rng, record)), ("assistant", answer))
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return rows


def write_task(folder: Path) -> None:
    """Writes train.jsonl, heldout.jsonl and prose.txt (held-out pre-training documents, split by blank lines)."""
    for name, n, seed, heldout in (("train", N_TRAIN, 1, False), ("heldout", N_HELDOUT, 2, True)):
        lines = (json.dumps(row) + "\n" for row in task_rows(n, seed=seed, heldout=heldout))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    prose = documents(seed=3)
    (folder / "prose.txt").write_text("\n\n".join(next(prose) for _ in range(200)) + "\n")


if __name__ == "__main__":
    write_task(Path(__file__).parent)
