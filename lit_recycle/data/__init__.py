"""Text in, fixed-length token batches out.

One way through: `sources` finds documents, `tokenizer` turns them into ids, `corpus` keeps the ids in a
memory-mapped cache, `order` says which sample comes when, `batches` gathers them, `module` hands them to Lightning.
"""
