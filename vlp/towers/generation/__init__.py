"""What writes captions with transformers, whose models take a second to import: loaded where a caption is written."""
