"""`vlp data`: tables and folders to shards (`pack`), what is in shards (`verify`, `inspect`, `index`), and which
samples of them are used (`filter`, `split`).

Read `pack.py` first, and `filter.py` for the second half. Each verb hands work to processes shard by shard and holds no
more than a few shards' words; `filter` and `split` hold a few numbers per sample besides.
"""
