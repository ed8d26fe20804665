"""``lit-recycle grow SRC DST``: grow a checkpoint on disk, a Hugging Face folder or one of this project's."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_recycle.commands.checksums_option import add_checksums
from lit_recycle.commands.errors import sentence
from lit_recycle.commands.source import source_on_disk
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.destination import check_room
from lit_recycle.growth.event import Depth, Form, Width
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import BranchTrainMix, Upcycle
from lit_recycle.growth.policy import POLICIES
from lit_recycle.hub.reader import read_json
from lit_recycle.hub.writer import SHARD_SIZE
from lit_recycle.progress import progress_bar

if TYPE_CHECKING:
    from lit_recycle.hub.plan import FolderGrowth

EXAMPLES = """examples:
  lit-recycle grow OLMoE-1B-7B OLMoE-2B-14B --width 2 --dry-run
  lit-recycle grow OLMoE-1B-7B OLMoE-2B-14B --width 2 --noise 0 --verify
  lit-recycle grow Qwen3-8B Qwen3-8B-deep --depth 2 --keep-first 2 --keep-last 2 --zero-output
  lit-recycle grow Qwen3-8B Qwen3-MoE --upcycle 8 --drop 0.5
  lit-recycle grow Llama-base Llama-MoE --experts-from Llama-code Llama-math --upcycle 3
  lit-recycle grow Qwen3-8B Qwen3-8B-solar --grow '{class_path: Solar, init_args: {drop: 8}}'
  lit-recycle grow runs/last.ckpt grown.ckpt --depth 2 --grow WidenHidden
"""


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    destination = Path(args.destination).expanduser()
    forms = _forms(args)
    if destination.exists() and not args.dry_run:
        raise ValueError(f"{destination} exists; give another destination or remove it")
    source = source_on_disk(args.source)
    if not source.exists():
        raise ValueError(f"{source} does not exist; give a Hugging Face folder or a checkpoint")
    if source.is_dir() and ((source / "config.json").exists() or _is_weights_folder(source)):
        return _grow_folder(args, forms)
    if args.verify or args.dtype or args.family or args.experts_from or args.checksums or args.max_shard_size:
        raise ValueError(
            f"{source} is no Hugging Face folder: --verify, --dtype, --family, --experts-from, --checksums and "
            "--max-shard-size need one"
        )
    if not forms:
        raise ValueError("the growth grows nothing: give --depth, --width, --upcycle or --grow")
    return _grow_checkpoint(args, source, forms)


def _is_weights_folder(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _grow_checkpoint(args: argparse.Namespace, source: Path, forms: list[Form]) -> int:
    with without_gc():
        from lit_recycle.checkpoints.grow import grow_checkpoint

    if args.dry_run:
        return _plan_checkpoint(args, source, forms)
    grow_checkpoint(
        source,
        Path(args.destination).expanduser(),
        *forms,
        seed=args.seed,
        optimizer_state=args.optimizer_state or "carry",
        maps=_maps(args),
        expect=partial(_expect, args),
    )
    print(f"wrote {args.destination}")
    return 0


def _plan_checkpoint(args: argparse.Namespace, source: Path, forms: list[Form]) -> int:
    with without_gc():
        from lit_recycle.checkpoints.grow import plan_checkpoint_growth
        from lit_recycle.checkpoints.native import load_whole_checkpoint, trained_weights
        from lit_recycle.hub.card import function_of, maps_of

    checkpoint = load_whole_checkpoint(source)
    plan = plan_checkpoint_growth(checkpoint, *forms, seed=args.seed, maps=_maps(args), expect=partial(_expect, args))
    before, after = (shape.num_params() for shape in (plan.before, plan.after))  # type: ignore[attr-defined]
    size = sum(tensor.nbytes for tensor in trained_weights(checkpoint).values()) / 1e9
    print(source)
    for line in (*maps_of(plan), function_of(plan)):
        print(f"  {line}")
    print(f"  Weights: {size:,.3f} GB → {size * after / before:,.3f} GB, {before:,} → {after:,} parameters")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-recycle grow",
        description="Grow a checkpoint: copy layers (--depth), make experts of a dense model (--upcycle), duplicate "
        "experts (--width), or any operator that `lit-recycle operators` lists (--grow); several follow each other in "
        "this order, after several models were mixed (--experts-from). A Hugging Face folder is streamed into a new "
        "folder that transformers loads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SRC", help="Hugging Face folder, or checkpoint of this project, or its address"
    )
    parser.add_argument("destination", metavar="DST", help="what to write; must not exist")
    depth = parser.add_argument_group("depth")
    depth.add_argument("--depth", type=int, metavar="M", help="how often each layer stands in the grown model")
    depth.add_argument("--method", choices=("interposition", "stack"), help="0 0 1 1 (default) or 0 1 0 1")
    depth.add_argument("--keep-first", type=int, metavar="N", help="leave the first N layers single")
    depth.add_argument("--keep-last", type=int, metavar="N", help="leave the last N layers single")
    depth.add_argument("--layers", type=_numbers, metavar="0,0,1,1,…", help="the source of each layer, written out")
    depth.add_argument("--zero-output", action="store_true", help="zero the output projections of copied layers")
    width = parser.add_argument_group("width")
    width.add_argument("--width", type=int, metavar="M", help="how often each expert stands in the grown model")
    width.add_argument("--noise", type=float, metavar="A", help="noise on copies, relative to each matrix (0.01)")
    width.add_argument("--top-k", choices=("scale", "keep"), help="multiply the experts per token too (default)")
    width.add_argument("--reset-balance", action="store_true", help="zero the balancing bias")
    upcycle = parser.add_argument_group("dense to Mixture-of-Experts")
    upcycle.add_argument("--upcycle", type=int, metavar="E", help="copy each feed-forward network to E experts")
    upcycle.add_argument("--upcycle-top-k", type=int, metavar="K", help="experts per token (2)")
    upcycle.add_argument("--granularity", type=int, metavar="G", help="cut each network into G experts (1)")
    upcycle.add_argument(
        "--experts-from", nargs="+", default=[], metavar="DIR", help="further models: experts from each in turn (BTX)"
    )
    upcycle.add_argument(
        "--shares", type=_shares, metavar="W,W,…", help="weight of SRC and each DIR in what is no expert's (equal)"
    )
    upcycle.add_argument("--drop", type=float, metavar="R", help="re-draw this share of inner channels")
    parser.add_argument(
        "--grow", action="append", default=[], metavar="OPERATOR", help="class name, or YAML as in a configuration"
    )
    parser.add_argument("--maps", metavar="FILE", help="JSON with the maps that a run has recorded, to follow them")
    parser.add_argument(
        "--family", metavar="FILE", help="YAML that describes a model family which is not known (docs/add-a-family.md)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="convert weights on the way")
    parser.add_argument("--max-shard-size", metavar="SIZE", help=f"of a safetensors file ({SHARD_SIZE})")
    parser.add_argument("--optimizer-state", choices=POLICIES, help="of a checkpoint of this project (carry)")
    add_checksums(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the sizes, write nothing")
    parser.add_argument("--verify", action="store_true", help="compare the logits of source and result afterwards")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layer numbers as in 0,0,1,1, got {text!r}") from None


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a weight for each model as in 0.5,0.5, got {text!r}") from None


def _depth(args: argparse.Namespace) -> Depth | None:
    given = {key: getattr(args, key) for key in ("method", "keep_first", "keep_last") if getattr(args, key) is not None}
    if args.layers is not None:
        if args.depth is not None or given:
            raise ValueError("--layers says it all: leave out --depth, --method, --keep-first and --keep-last")
        return Depth(layers=args.layers, zero_output=args.zero_output)
    if args.depth is not None:
        return Depth(args.depth, zero_output=args.zero_output, **given)
    if given or args.zero_output:
        raise ValueError("--method, --keep-first, --keep-last and --zero-output belong to depth growth: give --depth")
    return None


def _width(args: argparse.Namespace) -> Width | None:
    given = {key: getattr(args, key) for key in ("noise", "top_k") if getattr(args, key) is not None}
    if args.width is not None:
        return Width(args.width, reset_balance=args.reset_balance, **given)
    if given or args.reset_balance:
        raise ValueError("--noise, --top-k and --reset-balance belong to width growth: give --width")
    return None


def _forms(args: argparse.Namespace) -> list[Form]:
    """What is done, in order."""
    listed = _operators(args.grow)
    mixes = bool(args.experts_from) and not any(isinstance(operator, BranchTrainMix) for operator in listed)
    upcycle = _upcycle(args, mixes)
    forms: list[Form | None] = [_depth(args), upcycle, _width(args)]
    if mixes:  # of models as they are
        forms = [upcycle, forms[0], forms[2]]
    return [*(form for form in forms if form is not None), *listed]


def _upcycle(args: argparse.Namespace, mixes: bool) -> Upcycle | None:
    keys = {"top_k": args.upcycle_top_k, "granularity": args.granularity, "redraw": args.drop}
    given: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
    if args.shares is not None and not mixes:
        raise ValueError("--shares belong to several models: give --experts-from")
    if mixes:
        models = 1 + len(args.experts_from)
        shares = args.shares or (1 / models,) * models
        if len(shares) != models:
            raise ValueError(f"--shares has {len(shares)} weights for {models} models, SRC among them")
        count = args.upcycle if args.upcycle is not None else models * given.get("granularity", 1)
        return BranchTrainMix(count, shares=shares, **given)
    if args.upcycle is not None:
        return Upcycle(args.upcycle, **given)
    if given:
        raise ValueError(
            "--upcycle-top-k, --granularity and --drop belong to experts of dense models: give --upcycle or "
            "--experts-from"
        )
    return None


def _operators(texts: list[str]) -> list[Operator]:
    """Operators out of YAML, as in a configuration."""
    if not texts:
        return []
    import yaml
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--grow", type=list[Operator])
    try:
        values = [yaml.safe_load(text) for text in texts]
        return parser.instantiate(parser.parse_object({"grow": values})).grow
    except argparse.ArgumentError as error:
        told = str(sentence(error)).removeprefix("grow: ").removeprefix("grow ")
        raise ValueError(f"--grow: {told} (`lit-recycle operators` lists operators and their keys)") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--grow is not YAML: {' '.join(str(error).split())}") from error


def _maps(args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Recorded maps: a list of them, or a record with the key ``maps``."""
    if args.maps is None:
        return None
    values = read_json(Path(args.maps))
    maps = values.get("maps") if isinstance(values, dict) else values
    if not isinstance(maps, list):
        raise ValueError(f"{args.maps} holds neither a list of maps nor a record with the key maps")
    return maps


def _grow_folder(args: argparse.Namespace, forms: list[Form]) -> int:
    from lit_recycle.hub.family_file import read_family
    from lit_recycle.hub.measure import folder_facts
    from lit_recycle.hub.plan import plan_folder_growth
    from lit_recycle.hub.reader import open_folder

    if args.optimizer_state:
        raise ValueError(
            f"{args.source} is a Hugging Face folder, whose optimizer state is not grown: leave out --optimizer-state"
        )
    with without_gc():  # the plan of a large model is a hundred thousand tensors
        folder = open_folder(args.source, args.checksums)
        family = read_family(args.family) if args.family else None
        growth = plan_folder_growth(
            folder,
            *forms,
            seed=args.seed,
            dtype=args.dtype,
            facts=folder_facts(folder, args.dtype),
            maps=_maps(args),
            family=family,
            others=[Path(path).expanduser() for path in args.experts_from],
            expect=partial(_expect, args),
        )
    _print_plan(growth)
    if args.dry_run:
        return 0
    with without_gc():
        from lit_recycle.hub.grow import write_grown

    with progress_bar(growth.nbytes) as progress:
        write_grown(growth, args.destination, max_shard_size=args.max_shard_size or SHARD_SIZE, progress=progress)
    print(f"wrote {args.destination}")
    return _verify(args, expect_equal=growth.preserves) if args.verify else 0


def _expect(args: argparse.Namespace, nbytes: int) -> None:
    """A plan of very many layers or experts is made only if the result has room, and never without a word."""
    if not args.dry_run:
        check_room(Path(args.destination).expanduser(), nbytes, at_least=True)
    if nbytes:
        print(f"planning a model of at least {nbytes / 1e9:,.3f} GB", file=sys.stderr, flush=True)


def _print_plan(growth: FolderGrowth) -> None:
    from lit_recycle.hub.card import describe

    print(f"{growth.source.path} ({growth.config['model_type']})")
    for line in describe(growth):
        print(f"  {line}")
    print(
        f"  Size: {growth.source.nbytes / 1e9:,.3f} GB → {growth.nbytes / 1e9:,.3f} GB, {len(growth.tensors):,} tensors"
    )


def _verify(args: argparse.Namespace, expect_equal: bool) -> int:
    from lit_recycle.hub.verify import compare_logits

    difference = compare_logits(args.source, args.destination)
    print(f"largest logit difference {difference.largest:.3g} (largest logit of the source {difference.scale:.3g})")
    if expect_equal and not difference.is_rounding:
        way_out = " in the YAML file a tensor or a mark is missing: docs/add-a-family.md" if args.family else ""
        print(f"the growth should preserve the function, and does not: this is an error{way_out}", file=sys.stderr)
        return 1
    return 0
