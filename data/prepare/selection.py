"""Which icons of a set to take, in which styles, and how to call them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from emoji_names import BAD_WORDS
from iconify import IconSet
from rendering import Drawing


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Sets that show the drawings of another one in other styles.
FAMILIES = {
    **dict.fromkeys(("icon-park-outline", "icon-park-solid", "icon-park-twotone"), "icon-park"),
    **dict.fromkeys(("uim", "uis", "uit"), "uil"),
    **dict.fromkeys(("ic", "material-symbols-light"), "material-symbols"),
    **dict.fromkeys(("pepicons-pencil", "pepicons-print"), "pepicons-pop"),
    **{f"streamline{name}-color": f"streamline{name}" for name in (
        "", "-cyber", "-flex", "-freehand", "-plump", "-sharp", "-ultimate"
    )},
}  # fmt: skip
STYLES = 2

FILLED = {"fill", "filled", "solid", "bold", "duotone", "duo", "twotone", "two-tone", "flat", "block", "remix"}
FAINT = {"thin", "light", "broken"}
OUTLINED = FAINT | {"outline", "outlined", "line", "linear", "regular", "stroke"}
STYLE_WORDS = FILLED | OUTLINED | {"rounded", "round", "sharp", "baseline", "two", "tone"}
# What a set need not declare; "bold" and "line" end the names of drawings, too ("format-bold", "straight-line").
SAFE_ENDINGS = ("outline", "outlined", "fill", "filled", "solid", "duotone", "twotone")

BRAND_CATEGORY = re.compile(r"\b(brand|logo)s?\b|social ?media|designer ?communities|developer ?communities", re.I)
BRAND_WORDS = {"brand", "brands", "logo", "logos"}
# Words that make a name a brand.
BRANDS = _words(
    "500px adobe airbnb airtable algolia alipay amazon android angellist angular anthropic appstore arduino artstation "
    "asana atlassian aws azure baidu bandcamp behance bilibili bing bitbucket blackberry blogger bluesky bmw "
    "bootstrap centos chatgpt chromecast claude cloudflare codepen codesandbox copilot cpanel css3 dailymotion debian "
    "deepseek deezer deviantart digitalocean discord disqus docker dribbble dribble dropbox drupal ebay ethereum etsy "
    "evernote facebook facebookmessenger fedora fiverr figma firebase firefox flickr flipboard foursquare framer "
    "freebsd freecodecamp "
    "github gitlab gitter gmail golang goodreads google googleplay graphql gumroad hackernews hackerrank heroku html5 "
    "hubspot ibm imdb instagram intel internetexplorer invision ios itunes javascript jenkins jira joomla jquery "
    "jsfiddle kaggle kickstarter kotlin kubernetes laravel lastfm linkedin linux lyft magento mailchimp mastercard "
    "mastodon messenger microsoft midjourney mongodb myspace mysql napster netflix netlify nextjs nintendo nodejs "
    "notion npm nuxt nvidia odnoklassniki openai opensea paypal pinterest playstation postgresql "
    "producthunt python qq quora raspberrypi reddit renren sass shopify sinaweibo skype slack slideshare snapchat "
    "soundcloud spotify squarespace stackexchange stackoverflow stumbleupon svelte tailwind tailwindcss telegram "
    "tesla threads tiktok tinder trello tripadvisor tumblr twitch twitter typescript ubuntu unsplash upwork vercel "
    "viber vimeo visa vk vscode vue vuejs webflow wechat weibo whatsapp whmcs wikipedia wordpress xbox xing yahoo "
    "yandex yarn yelp youtube zhihu"
)
# Names that are brands only when nothing else follows.
BRANDS_ALONE = _words(
    "apple blender buffer chrome css delicious digg edge ello envato flutter html java jsx line-app magento medium "
    "meta next-js opera periscope php pocket react ring safari steam stripe subway swift uber unity vine windows "
    "google-plus zoom-app"
)

DULL = _words(
    "abstract actions action activity base basic common components content core data datas design essential "
    "extras general icons interface interfaces misc modifiers newicons operate operations other others parts "
    "regular status symbols symbol system ui user view base editors editor edit form objects"
) | {"interface essential", "user interface", "ui actions", "account user", "alert error", "basic ui"}
MOST_TAGS = 4


class Styles:
    """Names of icons without the words for their style.

    Args:
        icons: The set, which may declare endings and beginnings of names that stand for styles.
    """

    def __init__(self, icons: IconSet):
        endings, beginnings = icons.raw.get("suffixes", {}), icons.raw.get("prefixes", {})
        self._beginnings = sorted(filter(None, beginnings), key=len, reverse=True)
        self._endings = sorted(filter(None, endings), key=len, reverse=True)

    def split(self, name: str) -> tuple[str, str]:
        """Return name and style of an icon; no style is ""."""
        for ending in self._endings:
            if name.endswith(f"-{ending}"):
                base, further = self._split_safely(name.removesuffix(f"-{ending}"))
                return base, f"{further}-{ending}" if further else ending
        for beginning in self._beginnings:
            if name.startswith(f"{beginning}-"):
                return name.removeprefix(f"{beginning}-"), beginning
        return self._split_safely(name)

    def _split_safely(self, name: str) -> tuple[str, str]:
        base, _, ending = name.rpartition("-")
        return (base, ending) if base and ending in SAFE_ENDINGS else (name, "")


class Selection:
    """Chooses at most two styles of each drawing, over all sets that it is asked about."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def drawings(self, icons: IconSet, dropped: Counter[str], *, with_tags: bool = True) -> Iterator[Drawing]:
        """Yield the drawings of a set that are taken.

        Args:
            dropped: How many icons were left out, by reason; counted on.
            with_tags: Caption with name and tags; else with the name.
        """
        family = FAMILIES.get(icons.prefix, icons.prefix)
        most = 1 if family in FAMILIES.values() else STYLES  # so that the sets of a family share its two
        for base, members in _drawings(icons, dropped).items():
            shown = f"{family} {base}"
            chosen = _choose(members, min(most, STYLES - self._taken[shown]))
            self._taken[shown] += len(chosen)
            dropped["style"] += len(members) - len(chosen)
            for name in chosen:
                title = title_of(icons, name, base)
                yield icons.drawing(name, ", ".join([title, *tags_of(icons, name, title)]) if with_tags else title)


def _drawings(icons: IconSet, dropped: Counter[str]) -> dict[str, list[tuple[str, str]]]:
    """Return styles and names of the icons by the drawing that they show."""
    styles = Styles(icons)
    result: dict[str, list[tuple[str, str]]] = {}
    for name in icons.names:
        base, style = styles.split(name)
        if icons.is_hidden(name):
            dropped["hidden"] += 1
        elif is_brand(base, icons.categories.get(name, [])):
            dropped["logo"] += 1
        elif not title_of(icons, name, base):
            dropped["no name"] += 1
        else:
            result.setdefault(base, []).append((style, name))
    return result


def _choose(members: list[tuple[str, str]], count: int) -> list[str]:
    """Choose one filled and one outlined icon where there are both; else further ones."""
    ordered = sorted(members, key=_preference)
    is_filled = [bool(FILLED & set(style.split("-"))) for style, _ in ordered]
    first = [ordered[is_filled.index(kind)] for kind in sorted(set(is_filled))]
    return [name for _, name in [*first, *(member for member in ordered if member not in first)][: max(count, 0)]]


def _preference(member: tuple[str, str]) -> tuple[bool, int, int, str]:
    """Sort icons by style: faint ones last, large sizes first, then those with few words."""
    words = member[0].split("-")
    sizes = [int(word) for word in words if word.isdigit()]
    return bool(FAINT & set(words)), -max(sizes, default=0), len(member[0]), member[1]


def is_brand(base: str, categories: Sequence[str] = ()) -> bool:
    """Return whether an icon is somebody's logo."""
    words = base.split("-")
    plain = "-".join(word for word in words if word not in STYLE_WORDS and not word.isdigit())
    return bool(
        BRAND_WORDS & set(words)
        or BRANDS & set(words)
        or plain in BRANDS_ALONE
        or any(BRAND_CATEGORY.search(category) for category in categories)
    )


def title_of(icons: IconSet, name: str, base: str) -> str:
    """Return the words of a name without numbers at its end and without its category at its start."""
    for category in icons.categories.get(name, []):
        if " " in category:  # "arrow-down" of category "arrow" stays
            base = base.removeprefix(category.replace(" ", "-") + "-")
    if icons.prefix.startswith("icon-park"):
        base = re.sub(r"-(one|two|three|four|five)$", "", base)
    words = re.sub(r"(?<=[a-z]{3})\d+$|(-\d+)+$", "", base).replace("-", " ").strip()
    letters = sum(character.isalpha() for character in words)
    return words if letters >= 3 and not BAD_WORDS & set(words.split()) else ""


def tags_of(icons: IconSet, name: str, title: str) -> list[str]:
    """Return tags of an icon: its categories, then its other names."""
    tags = [
        piece
        for category in icons.categories.get(name, [])
        for piece in (part.strip() for part in re.split(r" ?[/&+] ?| and ", category))
        if len(piece) > 2 and piece not in DULL
    ]
    styles = Styles(icons)
    for alias in icons.aliases.get(name, []):
        other = title_of(icons, name, styles.split(alias)[0])
        if other and set(other.split()) != set(title.split()) and not is_brand(other.replace(" ", "-")):
            tags.append(other)
    return [tag for tag in dict.fromkeys(tags) if tag != title][:MOST_TAGS]
