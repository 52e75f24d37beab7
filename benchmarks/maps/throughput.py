"""How fast maps are made: each part alone, all together, and the plain way, side by side."""

import contextlib
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps.generate import MapGenerator, generate_anomaly_maps
from detectron2_agssp.maps.image_stream import chunks
from detectron2_agssp.maps.score import image_loader, score_batch
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.modeling.backbone.timm_models import feature_maps
from detectron2_agssp.scoring.build import build_anomaly_scorer
from detectron2_agssp.scoring.kead import encoder as kead_encoder
from detectron2_agssp.scoring.patch_features import TimmPatchFeatures

PARTS = ("decode", "forward", "forward + score", "write")


@dataclass
class Throughput:
    """Images a second.

    Attributes:
        rates: part -> images/s; also "together" and "plain".
        bottleneck: the slowest of the parts that run side by side in a run.
    """

    rates: dict[str, float]

    @property
    def bottleneck(self) -> str:
        return min(("decode", "forward + score", "write"), key=self.rates.__getitem__)


def measure_throughput(
    cfg, image_root: str | Path, *, num_images: int = 128, rounds: int = 3
) -> Throughput:
    """Times map generation on the first ``num_images`` images, with what ``cfg`` says.

    The scorer is built and fitted on them first, which is not timed. Each round times every part
    once, so that a change in the machine's load hits all of them; medians over the rounds are
    given. The plain way is the same model in float32, in a process of its own as Python starts it,
    no loader workers, PyTorch's default layout, and (CLIP) the two attentions one after the other,
    spelled out.

    Raises:
        ValueError: the folder holds no images.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        paths = list(itertools.islice(list_images(image_root), num_images))
        if not paths:
            raise ValueError(f"{image_root} holds no images to time.")
        for number, path in enumerate(paths):
            suffix = Path(path).suffix
            (images / f"{number:06d}{suffix}").symlink_to(Path(image_root).resolve() / path)
        fitted = Path(folder) / "fitted"
        generate_anomaly_maps(cfg, images, fitted, progress=False)
        parts = _parts(cfg, images, fitted, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in [*parts, "plain"]}
        with _plain_process(cfg, images, fitted, Path(folder)) as plain:
            for _ in range(rounds):
                for name, prepare in parts.items():
                    run = prepare()
                    start = time.perf_counter()
                    run()
                    seconds[name].append(time.perf_counter() - start)
                plain.send("run")
                seconds["plain"].append(plain.recv())
    return Throughput(
        {name: len(paths) / statistics.median(times) for name, times in seconds.items()}
    )


Run = Callable[[], object]


def _parts(cfg, images: Path, fitted: Path, folder: Path) -> dict[str, Callable[[], Run]]:
    """What is timed, behind functions that prepare it."""
    fresh = (folder / f"maps {number}" for number in itertools.count())
    generator = MapGenerator(cfg, images, MapStore(fitted), progress=False)
    generator.run()  # restores the fitted scorer
    scorer, loader = generator.scorer, generator.loader
    network = getattr(scorer, "features", None) or scorer.encoder
    decoded = list(loader(list_images(images)))
    crops = [part for batch in decoded for part, _, _ in batch.crop_batches(loader.batch_size)]
    scored = [(b.infos, score_batch(scorer, b, loader.batch_size)) for b in decoded]

    def synchronized(function: Callable[[Tensor], object]) -> None:
        for part in crops:
            function(part.to(scorer.device))
        if scorer.device.type == "cuda":
            torch.cuda.synchronize()

    def together() -> Run:
        whole = MapGenerator(cfg, images, MapStore(next(fresh)), progress=False)
        return lambda: whole.run(fitted)

    return {
        "decode": lambda: lambda: [None for _ in loader(list_images(images))],
        "forward": lambda: lambda: synchronized(network),
        "forward + score": lambda: lambda: synchronized(scorer),
        "write": lambda: lambda: _write(MapStore(next(fresh)), scored),
        "together": together,
    }


def _write(store: MapStore, scored) -> None:
    for infos, results in scored:
        for info, result in zip(infos, results, strict=True):
            store.write_map(info["image"], result.map.clip(0, 1))
        store.append([{**info, "map": "", "score": 0.0} for info in infos])


@contextlib.contextmanager
def _plain_process(cfg, images: Path, fitted: Path, folder: Path) -> Iterator[Connection]:
    """Yields the connection to a process that, for each message, makes all maps the plain way and
    answers with the seconds it took."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    arguments = (cfg, images, fitted, folder, torch.get_num_threads(), there)
    process = context.Process(target=_serve_plain_runs, args=arguments, daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


def _serve_plain_runs(cfg, images, fitted, folder, threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.AGSSP.SCORER.PRECISION = "fp32"
    scorer = build_anomaly_scorer(cfg)
    state = MapStore(fitted).read_scorer_state()
    scorer.load_learned_state({name: torch.from_numpy(array) for name, array in state.items()})
    loader = image_loader(cfg, scorer, images)
    with plain_networks(scorer):
        for number in itertools.count():
            connection.recv()
            store = MapStore(folder / f"plain {number}")
            start = time.perf_counter()
            for paths in chunks(list_images(images), loader.batch_size):
                decoded = loader.collate([loader.dataset[path] for path in paths])
                results = score_batch(scorer, decoded, loader.batch_size)
                _write(store, [(decoded.infos, results)])
            connection.send(time.perf_counter() - start)


@contextlib.contextmanager
def plain_networks(scorer: nn.Module) -> Iterator[None]:
    """Within it, timm models keep PyTorch's default layout, and CLIP computes its two attentions
    apart, with a softmax that is spelled out."""
    features = getattr(scorer, "features", None)
    if isinstance(features, TimmPatchFeatures):
        features.net.to(memory_format=torch.contiguous_format)

        def levels(images: Tensor) -> list[Tensor]:
            pixels = (images.float() - features.mean) / features.std
            return [level.float() for level in feature_maps(features.net, pixels)]

        with mock.patch.object(features, "levels", torch.no_grad()(levels)):
            yield
    else:
        with mock.patch.object(kead_encoder, "_dual_attention", plain_dual_attention):
            yield


def plain_dual_attention(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder's blocks compute, the plain way: each path projects for itself."""

    def attend(local: bool) -> Tensor:
        attention = block.attn
        projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (
            part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        if local:
            query = key = value
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        merged = (scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2)
        return block.ls_1(attention.out_proj(merged))

    attended = tokens + attend(local=False)
    return attended + block.ls_2(block.mlp(block.ln_2(attended))), attend(local=True)
