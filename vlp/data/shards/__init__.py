"""From a card to bytes: where shards lie, what is in them, and how they come here."""
