"""Text or ids in, fixed-length token batches out.

One way through: `sources` finds documents, `tokenizer` turns them into ids, `corpus` keeps the ids in a cache; or
`formats` finds ids that others have kept; `tokens` maps them. `mixture` says which source comes when and `order` which
of its samples, `stream` what of that a checkpoint must know. `cut` says which piece of which sample a training row is,
`batches` gathers rows, `loader` has them ready, `module` hands them to Lightning. `length_warmup`, `batch_warmup` say
how large the steps of a run are, and `pace` all of that together.
"""
