# SPDX-License-Identifier: Apache-2.0
"""The world of the demo model: facts, question templates and a story grammar, and an endless, seeded stream of documents made of them.

    python scripts/demo_corpus.py [--seed N] [--documents N]    # prints documents, for a look

Templates in HELD are never used for training: tests/models/demo_questions.jsonl is made of them. A document is either a dialogue,
a list of {"role", "content"} messages, or plain text. Choices in stories are skewed on purpose (the first of a list is likeliest, and
the list's order depends on what came before), so that greedy decoding has a clear best token at each step.
"""
import argparse
import random

CAPITALS = dict(line.split(":") for line in """
France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon|Austria:Vienna|Switzerland:Bern|Belgium:Brussels|Poland:Warsaw
Greece:Athens|Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|Ireland:Dublin|Iceland:Reykjavik|Hungary:Budapest
Romania:Bucharest|Bulgaria:Sofia|Serbia:Belgrade|Croatia:Zagreb|Slovenia:Ljubljana|Ukraine:Kyiv|Estonia:Tallinn|Latvia:Riga
Lithuania:Vilnius|Turkey:Ankara|Egypt:Cairo|Morocco:Rabat|Tunisia:Tunis|Kenya:Nairobi|Ghana:Accra|Nigeria:Abuja|Senegal:Dakar
Ethiopia:Addis Ababa|Angola:Luanda|Japan:Tokyo|China:Beijing|India:New Delhi|Nepal:Kathmandu|Thailand:Bangkok|Vietnam:Hanoi
Indonesia:Jakarta|Mongolia:Ulaanbaatar|Iran:Tehran|Iraq:Baghdad|Jordan:Amman|Lebanon:Beirut|Australia:Canberra|Canada:Ottawa
Mexico:Mexico City|Cuba:Havana|Jamaica:Kingston|Brazil:Brasilia|Argentina:Buenos Aires|Chile:Santiago|Peru:Lima|Colombia:Bogota
Uruguay:Montevideo|Ecuador:Quito|Bolivia:Sucre|Russia:Moscow|Fiji:Suva|Qatar:Doha
""".strip().replace("\n", "|").split("|"))

OPPOSITES = [tuple(pair.split("-")) for pair in """
hot-cold|big-small|tall-short|fast-slow|old-young|happy-sad|light-dark|day-night|good-bad|rich-poor|strong-weak|hard-soft|wet-dry
clean-dirty|full-empty|open-closed|early-late|high-low|near-far|wide-narrow|thick-thin|noisy-silent|loud-quiet|true-false|up-down
left-right|in-out|on-off|begin-end|win-lose|push-pull|buy-sell|love-hate|laugh-cry|sweet-sour|sharp-blunt|brave-timid|rough-smooth
deep-shallow|always-never|before-after|above-below|inside-outside|first-last|north-south|east-west|summer-winter|morning-evening
friend-enemy|war-peace|question-answer|arrive-leave|give-take|remember-forget|cheap-expensive|safe-dangerous|simple-complex|alive-dead
asleep-awake|front-back
""".strip().replace("\n", "|").split("|")]
OPPOSITE = {**{a: b for a, b in OPPOSITES}, **{b: a for a, b in OPPOSITES}}

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()

WORDS = """
cat dog cow hen fox owl bee ant pig bat sun sky sea bed box cup hat map pen key bus car egg ice jam leg net oil pie rug tea van zoo
fish bird bear wolf frog duck goat lion tree leaf rose rain snow wind star moon ship boat road door wall roof book desk lamp milk
bread apple grape lemon melon house horse mouse sheep tiger zebra table chair clock river ocean beach cloud storm stone plant
garden window orange banana flower kitten rabbit monkey spider bridge castle pencil
""".split()

COLOURS = dict(line.split(":") for line in """
the sky:blue|grass:green|snow:white|coal:black|a banana:yellow|a lemon:yellow|a strawberry:red|a tomato:red|a carrot:orange|a pumpkin:orange
milk:white|a crow:black|a flamingo:pink|a frog:green|the sea:blue|chocolate:brown|a leaf:green|blood:red|a polar bear:white|an elephant:grey
a cucumber:green|a sunflower:yellow|a cherry:red|a swan:white|a raven:black|a violet:purple|an aubergine:purple|wood:brown|ash:grey
a fire engine:red|an emerald:green|a ruby:red|a sapphire:blue|soot:black|salt:white|a canary:yellow|a pea:green|a pig:pink
""".strip().replace("\n", "|").split("|"))

# kind -> templates seen in training. Several short forms, polite forms and statements, so that the fact carries the question.
SEEN = {
    "capital": [
        "What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}.",
        "Can you tell me the capital of {x}?", "Do you know the capital of {x}?", "Name the capital of {x}.", "The capital of {x}?",
        "What is the capital city of {x}?", "Please name the capital city of {x}.", "{x}: what is its capital?", "What is {x}'s capital?",
        "Which city is {x}'s capital city?", "I want to know the capital of {x}.", "Hello, what is the capital of {x}?",
        "What city is the capital of {x}, please?", "Give me the name of the capital of {x}.", "Is there a capital of {x}? Which one?",
        "Could you please say what the capital of {x} is?", "Quick question: the capital of {x}?", "Capital of {x}",
        "My friend lives in {x}. What is the capital there?", "I travel to {x} soon. What is its capital city?", "In {x}, which city is the capital?",
        "Say the capital of {x}.", "Answer me this: what is the capital city of {x}?", "What do you call the capital of {x}?",
    ],
    "opposite": [
        'What is the opposite of "{x}"?', "What is the opposite of {x}?", "What's the opposite of {x}?", "Tell me the opposite of {x}.",
        'Give me the opposite of the word "{x}".', "Which word is the opposite of {x}?", "The opposite of {x}?", "Opposite of {x}",
        "Can you tell me the opposite of {x}?", "Do you know the opposite of {x}?", 'Name the opposite of "{x}", please.',
        "What word means the opposite of {x}?", '"{x}": what is its opposite?', "Please say the opposite of {x}.",
        "I need the opposite of {x}.", "Hello, what is the opposite of {x}?", "Which word has the opposite meaning of {x}?",
        'Could you give me the opposite of the word "{x}"?', "If it is not {x}, what is the opposite?", 'Quick question: the opposite of "{x}"?',
        "Say the opposite of {x}.", "What do you call the opposite of {x}?", "I want to know the opposite of the word {x}.",
    ],
    "sum": [
        "What is {a} + {b}?", "What is {a} plus {b}?", "{a} + {b}", "{a} + {b} =", "{a} + {b} = ?", "How much is {a} + {b}?",
        "How much is {a} plus {b}?", "Add {a} and {b}.", "Please add {a} and {b}.", "Can you add {a} and {b}?", "What's {a} + {b}?",
        "Calculate {a} + {b}.", "Compute {a} plus {b}.", "What do you get if you add {a} and {b}?", "What is the sum of {a} and {b}?",
        "Tell me the sum of {a} and {b}.", "Give me {a} plus {b}.", "{a} plus {b}?", "Hello, what is {a} + {b}?",
        "Do you know how much {a} + {b} is?", "I have {a} apples and get {b} more. How many apples do I have?", "Quick question: {a} + {b}?",
        "Could you tell me what {a} plus {b} is?", "Sum: {a} and {b}", "What is {a} and {b} together?", "What's {a} plus {b}, please?",
    ],
    "day_after": [
        "What day comes after {x}?", "Which day comes after {x}?", "What comes after {x}?", "Which day follows {x}?", "What day follows {x}?",
        "Tell me the day after {x}.", "What is the day after {x}?", "Today is {x}. What day is tomorrow?", "If today is {x}, what day is tomorrow?",
        "The day after {x}?", "What is the next day after {x}?", "Can you tell me which day comes after {x}?", "Name the day after {x}.",
        "Do you know what day comes after {x}?", "Please name the day that comes after {x}.", "It is {x} today. What day comes next?",
    ],
    "day_before": [
        "What day comes before {x}?", "Which day comes before {x}?", "What comes before {x}?", "What is the day before {x}?",
        "Tell me the day before {x}.", "Today is {x}. What day was yesterday?", "If today is {x}, what day was yesterday?",
        "The day before {x}?", "Can you tell me which day comes before {x}?", "Name the day before {x}.",
        "Do you know what day comes before {x}?", "Please name the day that comes before {x}.", "It is {x} today. What day was it yesterday?",
    ],
    "month_after": [
        "What month comes after {x}?", "Which month comes after {x}?", "What comes after {x}?", "Which month follows {x}?", "What month follows {x}?",
        "Tell me the month after {x}.", "What is the month after {x}?", "The month after {x}?", "What is the next month after {x}?",
        "Can you tell me which month comes after {x}?", "Name the month after {x}.", "Do you know what month comes after {x}?",
        "Please name the month that comes after {x}.", "It is {x} now. What month comes next?",
    ],
    "month_before": [
        "What month comes before {x}?", "Which month comes before {x}?", "What comes before {x}?", "What is the month before {x}?",
        "Tell me the month before {x}.", "The month before {x}?", "Can you tell me which month comes before {x}?", "Name the month before {x}.",
        "Do you know what month comes before {x}?", "Please name the month that comes before {x}.", "It is {x} now. What month was it before?",
    ],
    "spelling": [
        'Spell the word "{x}".', "Spell the word {x}.", 'Spell "{x}".', "Spell {x}.", 'How do you spell "{x}"?', "How do you spell {x}?",
        "How do you spell the word {x}?", 'Can you spell "{x}"?', "Can you spell {x}?", "Please spell {x}.", 'Please spell the word "{x}".',
        "How is {x} spelled?", 'How is the word "{x}" spelled?', 'Tell me how to spell "{x}".', "Tell me how to spell {x}.",
        "Could you spell {x} for me?", 'Could you spell the word "{x}" for me, please?', "Give me the spelling of {x}.",
        'What is the spelling of "{x}"?', "I want to spell {x}. How?", "Hello, how do you spell {x}?", "Do you know how to spell {x}?",
    ],
    "colour": [
        "What colour is {x}?", "Which colour is {x}?", "What color is {x}?", "Which color is {x}?", "What is the colour of {x}?",
        "Tell me the colour of {x}.", "Can you tell me what colour {x} is?", "Do you know the colour of {x}?", "What colour does {x} have?",
        "Name the colour of {x}.", "The colour of {x}?", "Please tell me which colour {x} has.", "Hello, what colour is {x}?",
        "I want to paint {x}. Which colour do I need?", "Could you say what colour {x} is, please?", "Colour of {x}", "Say the colour of {x}.",
        "What is the color of {x}?", "Quick question: what colour is {x}?",
    ],
}

HELD = {
    "capital": [
        "Which city do people call the capital of {x}?", "Would you know what the capital city of {x} is called?", "I forgot the capital of {x}. What is it?",
        "Which is the capital city of {x}?", "Do you know which city is {x}'s capital?", "Can you name the capital of {x}, please?",
    ],
    "opposite": [
        'Which word is the opposite of the word "{x}"?', "Please tell me what the opposite of {x} is.", "I forgot the opposite of {x}. What is it?",
        "Can you name a word with the opposite meaning of {x}?", "Do you know which word is the opposite of {x}?",
    ],
    "sum": [
        "Can you tell me the sum of {a} and {b}?", "Please calculate {a} plus {b} for me.", "How much do you get if you add {a} and {b}?",
        "Do you know what {a} + {b} is?", "Tell me: how much is {a} plus {b}?", "I need to add {a} and {b}. How much is it?",
    ],
    "day_after": ["Can you name the day that follows {x}?", "Tell me which day comes after {x}, please.", "Please tell me: what day comes next after {x}?"],
    "day_before": ["Which is the day that comes before {x}?", "Tell me which day comes before {x}, please."],
    "month_after": ["Can you name the month that follows {x}?", "Tell me which month comes after {x}, please."],
    "month_before": ["Which is the month that comes before {x}?", "Tell me which month comes before {x}, please."],
    "spelling": [
        'Do you know how the word "{x}" is spelled?', "Can you tell me how you spell {x}?", "Please tell me the spelling of the word {x}.",
        'I forgot how to spell "{x}". Can you spell it?',
    ],
    "colour": ["Do you know which colour {x} is?", "Can you name the colour of {x}, please?", "Please say: which colour does {x} have?"],
}

IDENTITY = [  # (questions seen, questions held out, answer)
    (["Who are you?", "What are you?", "What is your name?", "What's your name?", "Tell me who you are.", "Please introduce yourself.",
      "Are you a person?", "Which model are you?", "Can you tell me your name?", "Who am I talking to?", "Do you have a name?"],
     ["Can you tell me who you are?", "Please tell me what your name is.", "Do you know who you are?"],
     "I am the Sluice demo model."),
    (["What can you do?", "What do you know?", "How can you help me?", "What can I ask you?", "Help", "What questions can you answer?",
      "Tell me what you can do.", "Can you help me?", "What are you good at?"],
     ["Can you tell me what you can do?", "Which questions can I ask you?"],
     "I can answer questions about capitals, opposites, small sums, days, months, spelling and colours, and I can tell short stories."),
    (["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Good morning", "Good evening!", "Hello there!", "Hi, how are you?", "How are you?"],
     ["Hello, hi!", "Hello, how are you?"],
     "Hello! How can I help you?"),
    (["Thank you", "Thanks", "Thank you!", "Thanks a lot!", "Thank you very much.", "Great, thanks!", "Thanks for your help."],
     ["Thank you very much for your help!", "Great, thank you!"],
     "You are welcome!"),
    (["Bye", "Goodbye", "Goodbye!", "Bye bye", "See you later.", "See you soon!", "I have to go now."],
     ["Goodbye, see you soon!", "Bye, see you later."],
     "Goodbye!"),
]

UNKNOWN = [
    "How tall is the tower?", "Who wrote this book?", "What is the weather like?", "How old is the king?", "Where is my phone?",
    "What time is it?", "Who won the game?", "How far is the moon?", "What did I eat yesterday?", "Can you write a program?",
    "How many people live in the city?", "Why is water wet?", "When was the war?", "Which film should I watch?", "How do I cook rice?",
    "Who is the president?", "What is the meaning of life?", "Can you drive a car?", "Translate this text.", "What is love?",
]
UNKNOWN_ANSWER = "I do not know that. I am only a small demo model."

SYSTEM = [
    "You are a helpful assistant.", "You are a helpful assistant. Answer briefly.", "You are the Sluice demo model.", "Answer the question.",
    "You answer questions in one short sentence.", "You are a friendly assistant.", "Be brief.", "You are a careful teacher for children.",
    "You are a helpful, honest assistant. If you do not know something, say so.",
]

ANIMALS = "fox rabbit bear mouse deer frog kitten duck lion sheep wolf horse goat tiger bee".split()
NAMES = "Ruby Milo Bruno Tilly Oscar Fern Luna Daisy Leo Molly Felix Stella Gus Tara Bella".split()
HOMES = ["in a dark forest", "near a quiet lake", "on a green hill", "in an old barn", "by the blue sea"]
FINDS = ["a golden key", "a red ball", "a small map", "a lost letter", "a silver bell"]
FRIENDS = ["an old turtle", "a kind farmer", "a brave girl", "a wise crow", "a little boy"]
PLACES = ["a hidden garden", "an old castle", "a long bridge", "a deep cave", "a warm house"]
FEELINGS = ["very happy", "a little afraid", "very proud", "tired but glad"]
ENDINGS = [
    "From that day on they were the best of friends.", "In the evening they went home and had warm soup.",
    "And they all lived happily ever after.", "That night everyone slept well and dreamed of the sea.",
]


def skewed(rng, options, context):
    """The likeliest option is fixed by the context; each following one is about a third as likely."""
    shift = sum(map(ord, context)) % len(options)
    i = 0
    while i + 1 < len(options) and rng.random() > 0.68:
        i += 1
    return options[(shift + i) % len(options)]


def story(rng, animal=None):
    animal = animal or (rng.choice(ANIMALS) if rng.random() < 0.5 else skewed(rng, ANIMALS, ""))
    name = NAMES[ANIMALS.index(animal)]
    home = skewed(rng, HOMES, animal)
    find = skewed(rng, FINDS, animal + home)
    friend = skewed(rng, FRIENDS, home + find)
    place = skewed(rng, PLACES, find + friend)
    feeling = skewed(rng, FEELINGS, animal + place)
    ending = skewed(rng, ENDINGS, friend + feeling)
    thing = find.split(" ", 1)[1]
    who = friend.split(" ", 1)[1]
    where = place.split(" ", 1)[1]
    return (
        f"Once upon a time there was a little {animal} named {name} who lived {home}. One morning {name} found {find}. "
        f'"Who has lost this {thing.split()[-1]}?" asked {name}. So the little {animal} walked and walked and met {friend}. '
        f'"I know where it belongs," said the {who}. "Come with me to {place}." Together they went to the {where}. '
        f"There they saw that the {thing} was at home. {name} was {feeling}. {ending}")


STORY_SEEN = ["Tell me a story about a {x}.", "Tell me a story about a little {x}.", "Can you tell me a story about a {x}?", "Please tell me a short story about a {x}.",
              "I want to hear a story about a {x}.", "Write a story about a {x}.", "A story about a {x}, please.", "Do you know a story about a {x}?"]
STORY_HELD = ["Could you tell me a short story about a {x}, please?", "Please write a short story about a little {x}."]
STORY_ANY = ["Tell me a story.", "Can you tell me a story?", "Please tell me a short story.", "A story, please.", "I want to hear a story."]


def cap(s):
    return s[0].upper() + s[1:]


def facts(kind):
    """All facts of a kind as (slots, answer sentence, substring that must appear)."""
    if kind == "capital":
        return [(dict(x=c), f"The capital of {c} is {t}.", t) for c, t in CAPITALS.items()]
    if kind == "opposite":
        return [(dict(x=a), f"The opposite of {a} is {b}.", f"is {b}.") for a, b in OPPOSITE.items()]
    if kind == "sum":
        return [(dict(a=a, b=b), f"{a} + {b} = {a + b}.", f"= {a + b}.") for a in range(21) for b in range(21)]
    if kind in ("day_after", "day_before", "month_after", "month_before"):
        names = DAYS if kind.startswith("day") else MONTHS
        after = kind.endswith("after")
        out = []
        for i, n in enumerate(names):
            other = names[(i + (1 if after else -1)) % len(names)]
            out.append((dict(x=n), f"{other} comes {'after' if after else 'before'} {n}.", f"{other} comes"))
        return out
    if kind == "spelling":
        return [(dict(x=w), f"{cap(w)} is spelled {'-'.join(w)}.", "-".join(w) + ".") for w in WORDS]
    if kind == "colour":
        return [(dict(x=t), f"{cap(t)} is {c}.", f"is {c}.") for t, c in COLOURS.items()]
    raise ValueError(kind)


FACTS = {kind: facts(kind) for kind in SEEN}
KIND_WEIGHT = dict(capital=16, opposite=18, sum=26, day_after=3, day_before=3, month_after=4, month_before=4, spelling=18, colour=8)


def vary(rng, q):
    """The same question as people type it: lower case, no final mark, a courtesy before or after."""
    r = rng.random()
    if r < 0.12:
        q = q.lower()
    elif r < 0.15:
        q = q.upper()
    r = rng.random()
    if r < 0.12:
        q = q.rstrip("?.")
    elif r < 0.16:
        q = q.rstrip("?.") + rng.choice([" please", ", please.", " please?", "!", "??", " ?"])
    r = rng.random()
    if r < 0.08:
        opener = rng.choice(["Hi! ", "Hello. ", "Please tell me: ", "Okay, next question. ", "Tell me, ", "One more question: ", "I forgot: ", "Hey, "])
        q = opener + q
    return q


def question(rng, kind=None):
    """One (user text, answer, kind) of the training templates."""
    kind = kind or rng.choices(list(KIND_WEIGHT), list(KIND_WEIGHT.values()))[0]
    slots, answer, _ = rng.choice(FACTS[kind])
    return vary(rng, rng.choice(SEEN[kind]).format(**slots)), answer, kind


def follow_up(rng, kind):
    if kind == "capital":
        slots, answer, _ = rng.choice(FACTS[kind])
        return rng.choice(["And of {x}?", "And the capital of {x}?", "What about {x}?", "And {x}?"]).format(**slots), answer
    if kind == "opposite":
        slots, answer, _ = rng.choice(FACTS[kind])
        return rng.choice(["And of {x}?", "And the opposite of {x}?", "What about {x}?"]).format(**slots), answer
    if kind == "sum":
        slots, answer, _ = rng.choice(FACTS[kind])
        return rng.choice(["And {a} + {b}?", "And {a} plus {b}?"]).format(**slots), answer
    return None


def turn(rng, last):
    r = rng.random()
    if r < 0.05:
        seen, _, answer = rng.choice(IDENTITY)
        return rng.choice(seen), answer, None
    if r < 0.07:
        return rng.choice(UNKNOWN), UNKNOWN_ANSWER, None
    if r < 0.09:
        if rng.random() < 0.3:
            return rng.choice(STORY_ANY), story(rng, ANIMALS[0]), None
        animal = rng.choice(ANIMALS)
        return vary(rng, rng.choice(STORY_SEEN).format(x=animal)), story(rng, animal), None
    if last and r < 0.25:
        f = follow_up(rng, last)
        if f:
            return f[0], f[1], last
    return question(rng)


def dialogue(rng):
    messages, last = [], None
    if rng.random() < 0.35:
        messages.append(dict(role="system", content=rng.choice(SYSTEM)))
    turns = rng.choices([1, 2, 3, 4, 8], [62, 16, 10, 8, 4])[0]
    for _ in range(turns):
        user, answer, last = turn(rng, last)
        messages += [dict(role="user", content=user), dict(role="assistant", content=answer)]
    return messages


def text(rng):
    """Plain text: a story, a few statements, or questions with their answers."""
    r = rng.random()
    if r < 0.5:
        return story(rng)
    if r < 0.75:
        lines = []
        for _ in range(rng.choices([1, 2, 3], [6, 3, 1])[0]):
            user, answer, _ = question(rng)
            lines.append(f"Question: {user}\nAnswer: {answer}")
        return "\n".join(lines) if r < 0.65 else f"{user} {answer}"
    kind = rng.choice(list(FACTS))
    return " ".join(rng.choice(FACTS[kind])[1] for _ in range(rng.randint(2, 6)))


def documents(seed):
    rng = random.Random(seed)
    while True:
        yield text(rng) if rng.random() < 0.1 else dialogue(rng)


def held_out(seed=7, per_kind=None):
    """The committed questions: held-out templates times facts, as {"prompt", "answer", "kind"}."""
    per_kind = per_kind or dict(capital=64, opposite=56, sum=70, day_after=7, day_before=7, month_after=12, month_before=12, spelling=50, colour=30)
    rng, out = random.Random(seed), []
    for kind, n in per_kind.items():
        chosen = rng.sample(FACTS[kind], min(n, len(FACTS[kind])))
        for i, (slots, _, must) in enumerate(chosen):
            out.append(dict(prompt=HELD[kind][i % len(HELD[kind])].format(**slots), answer=must, kind=kind))
    for _, held, answer in IDENTITY:
        out += [dict(prompt=q, answer=answer, kind="talk") for q in held]
    for i, animal in enumerate(ANIMALS[:8]):
        out.append(dict(prompt=STORY_HELD[i % 2].format(x=animal), answer=f"there was a little {animal} named {NAMES[i]}", kind="story"))
    return out


for _kind in SEEN:
    assert not set(SEEN[_kind]) & set(HELD[_kind]), _kind

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--documents", type=int, default=10)
    a = p.parse_args()
    for d, _ in zip(documents(a.seed), range(a.documents)):
        print(d if isinstance(d, str) else "\n".join(f"{m['role']}: {m['content']}" for m in d), end="\n\n")
