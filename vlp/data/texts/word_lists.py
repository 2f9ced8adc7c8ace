"""Words that rules need to know: what may go, what stands for something visible, and what can take its place."""

from __future__ import annotations


def _groups(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each line."""
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


# Words without a picture. Words of place (on, under, behind) are none of them: they decide what is seen where, and
# the usual lists drop them, some even "top", "side", "fire" and "two".
STOP_WORDS = frozenset(
    word
    for line in _groups(
        """
        a an the this that these those some any each every other another such i me my mine we us our ours you your yours
        he him his she her hers it its they them their theirs who whom whose which what myself yourself himself herself
        itself ourselves themselves am is are was were be been being have has had having do does did doing will would
        shall should can could may might must and or but nor so yet if because as than then though although while since
        until of for to at by with from into about there here also just only too very quite rather own same it's i'm
        he's she's don't
        """
    )
    for word in line
)

# Each line differs in one visible property; a word of several lines is looked up in the first.
ATTRIBUTES = _groups(
    """
    red orange yellow green blue purple pink brown black white gray golden silver
    big small
    large tiny
    huge little
    tall short
    long short
    wide narrow
    thick thin
    old young
    new ancient
    open closed
    full empty
    wet dry
    clean dirty
    hot cold
    dark bright
    round square triangular
    striped spotted plain
    happy sad angry
    smiling crying
    sunny rainy snowy cloudy
    wooden metal plastic glass stone leather
    one two three four five six seven eight nine ten
    """
)
RELATIONS = _groups(
    """
    left right
    above below
    over under
    on under beside
    underneath atop
    beneath atop
    inside outside
    before after
    behind beside
    near opposite
    front back
    top bottom
    up down
    with without
    into onto
    towards away
    more fewer
    first last
    """
)
OBJECTS = _groups(
    """
    man woman boy girl
    king queen
    dog cat horse cow sheep pig rabbit mouse elephant lion tiger bear monkey giraffe zebra
    bird duck chicken eagle owl penguin parrot
    fish shark whale dolphin crab turtle
    bee butterfly spider ant snail
    car bus truck train bicycle motorcycle boat ship plane helicopter
    apple banana pear lemon grape cherry strawberry
    bread cake pizza sandwich burger cookie soup
    tree flower mushroom cactus leaf
    chair table sofa bed lamp desk
    house church castle tower bridge tent
    beach forest mountain desert river lake city street garden park
    kitchen bathroom bedroom office
    hat shirt dress shoe jacket glove sock
    cup bottle bowl plate fork knife spoon
    guitar piano drum violin trumpet
    sun moon star cloud rainbow
    hand foot head face eye ear nose mouth
    ball kite book phone clock key box bag umbrella
    """
)
