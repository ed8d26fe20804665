"""Resume a run with several processes and write down what each has seen; arguments: a JSON of what to do."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.counting import Counting, quiet_trainer

from lit_recycle.data.config import DataStage, Source, Until
from lit_recycle.data.module import TextData


def data_of(options):
    """`TextData` from plain types."""
    sources = options.pop("sources", None)
    stages = [
        DataStage(stage["weights"], Until(**stage["until"]) if "until" in stage else None)
        for stage in options.pop("stages", [])
    ]
    return TextData(sources=sources and [Source(**source) for source in sources], stages=stages, **options)


if __name__ == "__main__":
    todo = json.loads(sys.argv[1])
    model = Counting()
    trainer = quiet_trainer(devices=todo["processes"], strategy="ddp", num_sanity_val_steps=0, **todo["trainer"])
    trainer.fit(model, data_of(todo["data"]), ckpt_path=todo["checkpoint"])
    found = {"trained": model.trained, "validated": model.validated, "samples_seen": model.samples_seen}
    Path(todo["out"], f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
