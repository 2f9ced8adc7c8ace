"""`vlp data`: tables and folders to shards (`pack`), and what is in shards (`verify`, `inspect`, `index`).

Read `pack.py` first. Each verb hands work to processes shard by shard and holds no more than a few shards' words.
"""
