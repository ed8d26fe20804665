"""Writers of tokenised data in other projects' formats; by their libraries where these install beside every torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Documents = list[np.ndarray]
EOS = 256


def some_documents(count: int = 300, seed: int = 0) -> Documents:
    """Ids of the byte tokenizer, each document ended by its end-of-document id."""
    draw = np.random.default_rng(seed)
    return [np.append(draw.integers(32, 127, draw.integers(1, 80)), EOS) for _ in range(count)]


def megatron(folder: Path, documents: Documents) -> Path:
    """Every second document in two sequences, as sentences are kept."""
    sequences, borders = [], [0]
    for number, ids in enumerate(documents):
        cut = len(ids) // 2 if number % 2 else 0
        sequences += [part for part in (ids[:cut], ids[cut:]) if len(part)]
        borders.append(len(sequences))
    lengths = np.array([len(part) for part in sequences], "<i4")
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1], dtype="<i8") * 2]).astype("<i8")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(sequences), len(borders))
    (folder / "corpus_text_document.idx").write_bytes(
        head + lengths.tobytes() + pointers.tobytes() + np.array(borders, "<i8").tobytes()
    )
    return flat(folder / "corpus_text_document.bin", documents)


def flat(path: Path, documents: Documents, dtype: str = "uint16", head: bytes = b"") -> Path:
    path.write_bytes(head + np.concatenate(documents).astype(dtype).tobytes())
    return path


def llm_c(path: Path, documents: Documents, magic: int = 20240520, width: int = 0) -> Path:
    header = np.zeros(256, "<i4")
    header[:4] = magic, 1, sum(map(len, documents)), width
    return flat(path, documents, "uint32" if width == 4 else "uint16", header.tobytes())


def llm_c_shards(folder: Path, documents: Documents) -> Path:
    (folder / "shards").mkdir()
    for number, part in enumerate((documents[:100], documents[100:110], documents[110:])):
        llm_c(folder / "shards" / f"fineweb_train_{number:06d}.bin", part)
    return folder / "shards"


def numpy(folder: Path, documents: Documents) -> Path:
    np.save(folder / "ids.npy", np.concatenate(documents).astype(np.int32))
    return folder / "ids.npy"


def litdata(folder: Path, documents: Documents) -> Path:
    """By the published layout: litdata cannot be installed beside every torch. `test_formats` compares the two."""
    root, chunks = folder / "optimised", []
    root.mkdir()
    for number, part in enumerate((documents[:120], documents[120:])):
        starts = np.cumsum([0, *(2 * len(ids) for ids in part)]) + 4 * (len(part) + 2)
        head = np.array([len(part), *starts], "<u4").tobytes()
        flat(root / f"chunk-0-{number}.bin", part, head=head)
        dim = sum(map(len, part))
        size = (root / f"chunk-0-{number}.bin").stat().st_size
        chunks.append({"chunk_bytes": size, "chunk_size": len(part), "dim": dim, "filename": f"chunk-0-{number}.bin"})
    config = {"compression": None, "data_format": ["no_header_tensor:20"], "item_loader": "TokensLoader"}
    (root / "index.json").write_text(json.dumps({"chunks": chunks, "config": config}))
    return root


def hugging_face(folder: Path, documents: Documents) -> Path:
    import datasets

    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
    made = datasets.Dataset.from_dict({"input_ids": [ids.tolist() for ids in documents]}, features=features)
    made.save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def parquet(folder: Path, documents: Documents) -> Path:
    table = pa.table({"input_ids": [ids.tolist() for ids in documents], "id": range(len(documents))})
    pq.write_table(table, folder / "rows.parquet", row_group_size=70)
    return folder / "rows.parquet"


FORMATS: dict[str, Callable[[Path, Documents], Path]] = {
    "Megatron": megatron,
    "nanoGPT": lambda folder, documents: flat(folder / "train.bin", documents),
    "OLMo": lambda folder, documents: flat(folder / "part-00.npy", documents),
    "numpy": numpy,
    "llm.c": lambda folder, documents: llm_c(folder / "tokens.bin", documents),
    "llm.c, 4 bytes": lambda folder, documents: llm_c(folder / "tokens.bin", documents, 278895051, 4),
    "llm.c, shards": llm_c_shards,
    "litdata": litdata,
    "Hugging Face": hugging_face,
    "Parquet": parquet,
}
KNOWS_DOCUMENTS = ("Megatron", "litdata", "Hugging Face")
COPIED = ("Parquet",)
