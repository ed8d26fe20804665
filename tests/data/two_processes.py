"""Resume a run with two processes and write down what each has seen: books, folder, checkpoint as arguments."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.counting import Counting, quiet_trainer

from lit_recycle.data.module import TextData

books, folder, checkpoint = sys.argv[1:]
model = Counting()
data = TextData(books, seq_len=16, batch_size=3, cache_dir=f"{folder}/another-cache")
trainer = quiet_trainer(
    devices=2, strategy="ddp", max_steps=5, val_check_interval=5, check_val_every_n_epoch=None, num_sanity_val_steps=0
)
trainer.fit(model, data, ckpt_path=checkpoint)
found = {"trained": model.trained, "validated": model.validated, "samples_seen": model.samples_seen}
Path(folder, f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
