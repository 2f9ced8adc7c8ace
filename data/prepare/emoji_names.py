"""Names and tags of emoji from npm `emojibase-data` and `emojilib`, and which drawing of a vendor shows which emoji."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SKIN = re.compile(r"1f3f[b-f]")

# Words for an emojibase subgroup, as in the captions of the shipped noto pairs.
SUBGROUP_WORDS = {
    "face-smiling": "smiling face",
    "face-affection": "affectionate face",
    "face-tongue": "face with tongue out",
    "face-hand": "face with a hand",
    "face-neutral-skeptical": "neutral or skeptical face",
    "face-sleepy": "sleepy face",
    "face-unwell": "sick face",
    "face-hat": "face with a hat",
    "face-glasses": "face with glasses",
    "face-concerned": "worried or sad face",
    "face-negative": "angry face",
    "face-costume": "costume face such as a ghost or robot",
    "cat-face": "cat face",
    "monkey-face": "monkey face",
    "heart": "heart",
    "emotion": "emotion",
    "hand-fingers-open": "open hand",
    "hand-fingers-partial": "hand with some fingers raised",
    "hand-single-finger": "pointing hand",
    "hand-fingers-closed": "fist or thumb",
    "hands": "two hands",
    "hand-prop": "hand holding something",
    "body-parts": "body part",
    "person": "person",
    "person-gesture": "person making a gesture",
    "person-role": "person with a job",
    "person-fantasy": "fantasy character",
    "person-activity": "person doing an activity",
    "person-sport": "person playing a sport",
    "person-resting": "person resting",
    "family": "family",
    "person-symbol": "person",
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-amphibian": "amphibian",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "insect",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "prepared food",
    "food-asian": "asian food",
    "food-sweet": "dessert or sweets",
    "drink": "drink",
    "dishware": "dishware",
    "place-map": "map or globe",
    "place-geographic": "landscape",
    "place-building": "building",
    "place-religious": "religious building",
    "place-other": "scenery",
    "transport-ground": "ground vehicle",
    "transport-water": "boat or ship",
    "transport-air": "aircraft",
    "hotel": "hotel item",
    "time": "clock",
    "sky-weather": "sky and weather",
    "event": "celebration",
    "award-medal": "medal or trophy",
    "sport": "sports equipment",
    "game": "game",
    "arts-crafts": "arts and crafts",
    "clothing": "clothing",
    "sound": "speaker or bell",
    "music": "music symbol",
    "musical-instrument": "musical instrument",
    "phone": "phone",
    "computer": "computer",
    "light-video": "camera or light",
    "book-paper": "book or paper",
    "money": "money",
    "mail": "mail",
    "writing": "writing tool",
    "office": "office supply",
    "lock": "lock or key",
    "tool": "tool",
    "science": "science equipment",
    "medical": "medical item",
    "household": "household item",
    "other-object": "object",
    "transport-sign": "public sign",
    "warning": "warning sign",
    "arrow": "arrow",
    "religion": "religious symbol",
    "zodiac": "zodiac sign",
    "av-symbol": "media control button",
    "gender": "gender symbol",
    "math": "math symbol",
    "punctuation": "punctuation mark",
    "currency": "currency sign",
    "other-symbol": "symbol",
    "keycap": "keycap digit",
    "alphanum": "letters in a box",
    "geometric": "colored shape",
}

# Subgroups of people: only the first vendor gives every one of them.
PEOPLE = {
    "person",
    "person-gesture",
    "person-role",
    "person-fantasy",
    "person-activity",
    "person-sport",
    "person-resting",
    "family",
    "person-symbol",
}

# Names of fxemoji drawings that no list of names resolves.
FXEMOJI_NAMES = {
    "2hearts": "two hearts",
    "angry": "angry face",
    "anguish": "anguished face",
    "aok": "OK hand",
    "astonished": "astonished face",
    "blackrosette": "rosette",
    "blonde": "person: blond hair",
    "boot": "woman's boot",
    "bouquetofflowers": "bouquet",
    "bow": "bow and arrow",
    "bunny": "rabbit face",
    "bunnyside": "rabbit",
    "catside": "cat",
    "cellphone": "mobile phone",
    "chartdownwardstrend": "chart decreasing",
    "chartupwardstrend": "chart increasing",
    "chilipepper": "hot pepper",
    "clap": "clapping hands",
    "coldsweat": "anxious face with sweat",
    "confetti": "confetti ball",
    "confounded": "confounded face",
    "confused": "confused face",
    "cop": "police officer",
    "crying": "crying face",
    "dogside": "dog",
    "dragonhead": "dragon face",
    "dragonside": "dragon",
    "europeafricaglobe": "globe showing Europe-Africa",
    "americasglobe": "globe showing Americas",
    "asiaaustraliaglobe": "globe showing Asia-Australia",
    "evergreen": "evergreen tree",
    "expressionless": "expressionless face",
    "fallingleaf": "fallen leaf",
    "fearful": "fearful face",
    "fishcakeswirl": "fish cake with swirl",
    "fistedhand": "raised fist",
    "flexbicep": "flexed biceps",
    "flushed": "flushed face",
    "forkknife": "fork and knife",
    "frontfacingchick": "front-facing baby chick",
    "gem": "gem stone",
    "grimacing": "grimacing face",
    "grineyes": "grinning face with smiling eyes",
    "grinsquint": "grinning squinting face",
    "grinsweat": "grinning face with sweat",
    "grintears": "face with tears of joy",
    "halo": "smiling face with halo",
    "hampster": "hamster",
    "hand": "raised hand",
    "handheldvideocamera": "video camera",
    "hands": "open hands",
    "heartarrow": "heart with arrow",
    "heartblue": "blue heart",
    "hearteyes": "smiling face with heart-eyes",
    "heartgreen": "green heart",
    "heartpurple": "purple heart",
    "heartribbon": "heart with ribbon",
    "heartyellow": "yellow heart",
    "heels": "high-heeled shoe",
    "high5": "raised hand",
    "hourglassflowingsand": "hourglass not done",
    "highspeedtrainbulletnose": "bullet train",
    "hushed": "hushed face",
    "leaffluttering": "leaf fluttering in wind",
    "leopardside": "leopard",
    "lockandkey": "locked with key",
    "loudlycrying": "loudly crying face",
    "mahjong": "mahjong red dragon",
    "mansshirt": "t-shirt",
    "manltepiececlock": "mantelpiece clock",
    "mensshoe": "man's shoe",
    "mensrunner": "running shoe",
    "meridianglobe": "globe with meridians",
    "mouseside": "mouse",
    "neutral": "neutral face",
    "nomouth": "face without mouth",
    "pensive": "pensive face",
    "pigside": "pig",
    "pigsnout": "pig nose",
    "poo": "pile of poo",
    "portablestereo": "radio",
    "pray": "folded hands",
    "present": "wrapped gift",
    "racecar": "racing car",
    "raincloud": "cloud with rain",
    "relieved": "relieved face",
    "ringingbell": "bell",
    "leftmagnifyingglass": "magnifying glass tilted left",
    "rightmagnifyingglass": "magnifying glass tilted right",
    "saggitarius": "Sagittarius",
    "sandals": "woman's sandal",
    "screamfear": "face screaming in fear",
    "sleeping": "sleeping face",
    "sleepy": "sleepy face",
    "smileeyes": "smiling face with smiling eyes",
    "smirk": "smirking face",
    "snowcloud": "cloud with snow",
    "snowmountains": "snow-capped mountain",
    "spurtingwhale": "spouting whale",
    "speechbubble": "speech balloon",
    "stormcloud": "cloud with lightning and rain",
    "studiomic": "studio microphone",
    "sunraincloud": "sun behind rain cloud",
    "sunrays": "sun",
    "tennisball": "tennis",
    "thoughtbaloon": "thought balloon",
    "tie": "necktie",
    "tigerside": "tiger",
    "tired": "tired face",
    "tongueout": "face with tongue",
    "tongueoutwink": "winking face with tongue",
    "toykotower": "Tokyo tower",
    "unamused": "unamused face",
    "videocasette": "videocassette",
    "waningbibbousmoon": "waning gibbous moon",
    "wave": "waving hand",
    "weary": "weary face",
    "whitesun": "sun",
    "whitestar": "star",
    "whitesunsmallcloud": "sun behind small cloud",
    "winking": "winking face",
    "wiredkeyboard": "keyboard",
    "womansshirt": "woman's clothes",
    "worried": "worried face",
    "beachumbrella": "umbrella on ground",
    "bolt": "nut and bolt",
    "controlknob": "control knobs",
    "leftwritinghand": "writing hand",
    "medicalmask": "face with medical mask",
    "monkeyhear": "hear-no-evil monkey",
    "monkeysee": "see-no-evil monkey",
    "monkeyspeak": "speak-no-evil monkey",
    "tapecartridge": "videocassette",
    "clock12oclock": "twelve o'clock",
    "clock1oclock": "one o'clock",
    "clock2oclock": "two o'clock",
    "clock3oclock": "three o'clock",
    "clock4oclock": "four o'clock",
    "clock6oclock": "six o'clock",
    "clock7oclock": "seven o'clock",
    "clock12thirty": "twelve-thirty",
    "clock1thirty": "one-thirty",
    "clock2thirty": "two-thirty",
    "clock3thirty": "three-thirty",
    "clock4thirty": "four-thirty",
    "clock5thirty": "five-thirty",
    "clock6thirty": "six-thirty",
}

BAD_WORDS = {
    "shit",
    "poop",
    "hell",
    "rude",
    "damn",
    "sex",
    "sexy",
    "sexual",
    "ass",
    "fuck",
    "wtf",
    "omg",
    "suck",
    "dirty",
    "naked",
    "butt",
    "slut",
    "crap",
    "cupertino",
    "shrek",
    "balls",
    "boobs",
    "drunk",
    "weed",
    "stoned",
    "dead",
}


@dataclass(frozen=True)
class Emoji:
    """Names and tags of one emoji."""

    label: str
    tags: tuple[str, ...]
    subgroup: str


def read_json(path: Path) -> Any:
    """Read a JSON file as UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


def strip_code(code: str) -> str:
    """Normalise a hexadecimal emoji sequence: lower case, no variation selector."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def slug(text: str) -> str:
    """Keep only the ASCII letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def clean_tags(words: list[str], label: str) -> tuple[str, ...]:
    """Return readable tags without the label, duplicates and unwanted words."""
    result: list[str] = []
    for word in words:
        tag = word.replace("_", " ").strip().lower()
        if not re.fullmatch(r"[a-z][a-z -]{2,24}", tag) or slug(tag) == slug(label):
            continue
        if tag not in result and not BAD_WORDS & set(tag.split()):
            result.append(tag)
    return tuple(result)


def load_emoji(modules: Path) -> dict[str, Emoji]:
    """Read names, tags and subgroup words of all emoji that are no flags or parts."""
    data = read_json(modules / "emojibase-data" / "en" / "data.json")
    groups = read_json(modules / "emojibase-data" / "meta" / "groups.json")["subgroups"]
    keywords = read_json(modules / "emojilib" / "dist" / "emoji-en-US.json")
    table: dict[str, Emoji] = {}
    for entry in data:
        subgroup = groups.get(str(entry.get("subgroup")), "")
        if subgroup not in SUBGROUP_WORDS:
            continue
        words = list(entry.get("tags", [])) + keywords.get(entry["emoji"], [])
        tags = clean_tags(words, entry["label"])
        table[strip_code(entry["hexcode"])] = Emoji(entry["label"], tags, subgroup)
    return table


def name_table(modules: Path, emoji: dict[str, Emoji]) -> dict[str, str]:
    """Map slugs of the names in use (icon names, aliases, Unicode) to code points."""
    names = {slug(entry.label): code for code, entry in emoji.items()}
    for prefix in ("noto", "twemoji"):
        icons = read_json(modules / "@iconify" / "json" / "json" / f"{prefix}.json")
        codes = {name: strip_code(code) for code, name in icons["chars"].items()}
        for name, code in codes.items():
            names.setdefault(slug(name), code)
        for alias, target in icons.get("aliases", {}).items():
            if set(target) == {"parent"} and target["parent"] in codes:
                names.setdefault(slug(alias), codes[target["parent"]])
    unicode_names = read_json(modules / "emojibase-data" / "meta" / "unicode-names.json")
    for code, name in unicode_names.items():
        names.setdefault(slug(name), strip_code(code))
    for name, label in FXEMOJI_NAMES.items():
        if slug(label) in names:
            names.setdefault(name, names[slug(label)])
    return names


def emoji_codes(icons: dict[str, Any], names: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (icon name, code point, variant) of every emoji drawing of a set."""
    chars = {name: strip_code(code) for code, name in icons.get("chars", {}).items()}
    for name in sorted(icons["icons"]):
        if icons["icons"][name].get("hidden"):
            continue
        code, variant = chars.get(name) or names.get(slug(name)), ""
        if code is None:
            match = re.fullmatch(r"(.+)-(\d)", name)
            if match and slug(match[1]) in names:
                code, variant = names[slug(match[1])], match[2]
        if code is not None and not SKIN.search(code):
            yield name, code, variant


def emoji_caption(entry: Emoji, rng: random.Random) -> str:
    """Compose a caption: the name, then in most cases tags and the subgroup words."""
    parts = [entry.label]
    if rng.random() < 0.8:
        count = min(len(entry.tags), rng.randint(1, 3))
        parts += sorted(rng.sample(entry.tags, count))
        words = SUBGROUP_WORDS[entry.subgroup]
        if rng.random() < 0.75 and words not in parts:
            parts.append(words)
    return ", ".join(parts)
