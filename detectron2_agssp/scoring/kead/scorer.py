"""KeAD as a scorer: described defects, a few normal images, or both (AGSSP, section on KeAD).

Shapes: N images, h x w patches, D channels of the embedding, M normal patches.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor

from detectron2_agssp.scoring.base import (
    AnomalyScorer,
    AnomalyScores,
    as_batches,
    check_finite,
    check_images,
    strongest_cells,
)
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY
from detectron2_agssp.scoring.kead.clip_features import ClipEncoder
from detectron2_agssp.scoring.kead.clip_model import load_clip, load_tokenizer
from detectron2_agssp.scoring.kead.descriptions import (
    ObjectDescription,
    choose_object,
    objects_by_source,
)
from detectron2_agssp.scoring.kead.maps import (
    few_shot_maps,
    text_anomaly_image_scores,
    text_anomaly_maps,
)
from detectron2_agssp.scoring.kead.prompts import TextFeatures, build_text_features

MODES = ("zero_shot", "few_shot", "both")
_TEXTS = ("text_normal", "text_anomaly", "text_empty")


class KeadScorer(AnomalyScorer):
    """Similarity of V-V patches to described defects, plus distance to normal patches.

    An image's score is CLIP's own similarity to the texts; with normal images, the mean of that
    and the map's maximum; without texts, the maximum.

    Args:
        encoder: the vision side of CLIP.
        text: the text side; may be None in mode "few_shot".
        image_size: side in pixels of the square that images are resized to.
        mode: "zero_shot" (texts alone), "few_shot" (normal images alone) or "both".
        temperature: of the softmax between the normal and the anomalous text.
        text_by_source: the text side of sources that are not described by ``text``.
    """

    @configurable
    def __init__(
        self,
        *,
        encoder: ClipEncoder,
        text: TextFeatures | None,
        image_size: int = 240,
        mode: str = "zero_shot",
        temperature: float = 0.07,
        text_by_source: Mapping[str, TextFeatures] | None = None,
    ):
        super().__init__()
        check_settings(mode, temperature)
        if text is None and mode != "few_shot":
            raise ValueError(f"KeAD's mode {mode!r} needs texts; got none.")
        self.uses_text, self.uses_memory = mode != "few_shot", mode != "zero_shot"
        self.fit_sample = "normal" if self.uses_memory else "none"
        self.encoder = encoder
        self.image_size = image_size
        self.stride = self.size_divisor = encoder.encoder.patch_size[0]
        if image_size % self.stride:
            raise ValueError(
                f"AGSSP.SCORER.IMAGE_SIZE is {image_size}, not a multiple of the patch size "
                f"{self.stride}. CLIP ViT-B-16-plus-240 takes 240."
            )
        self.temperature = temperature
        channels = encoder.encoder.embedding_size
        if text is None:
            empty = torch.zeros(0, channels)
            text = TextFeatures(empty, empty, empty)
        # Source -> what its texts' buffers end with; those of all others have no ending.
        by_source = text_by_source or {}
        self.text_endings = {name: f"_{n}" for n, name in enumerate(by_source)}
        sides = {"": text, **{self.text_endings[name]: own for name, own in by_source.items()}}
        for ending, side in sides.items():
            for name in _TEXTS:
                part = getattr(side, name.removeprefix("text_"))
                self.register_buffer(f"{name}{ending}", part.detach().clone())
        layers = len(encoder.encoder.feature_layers)
        # The normal images' patches, per layer, unit vectors.
        self.register_buffer("memory", torch.zeros(layers, 0, channels))

    @property
    def told_source(self) -> bool:
        return bool(self.text_endings)

    @classmethod
    def from_config(cls, cfg):
        scorer = cfg.AGSSP.SCORER
        kead = scorer.KEAD
        # What is quick to check comes first: the weights, and then the texts, take a while.
        check_settings(kead.MODE, kead.TEMPERATURE)
        described: dict[str | None, ObjectDescription] = {}
        if kead.MODE != "few_shot":
            described[None] = choose_object(kead.DESCRIPTIONS, kead.OBJECT)
            described |= objects_by_source(kead.OBJECTS_BY_SOURCE, kead.DESCRIPTIONS)
        clip = load_clip(kead.MODEL, kead.PRETRAINED, allow_download=kead.ALLOW_DOWNLOAD)
        texts = {}
        if described:
            tokenizer = load_tokenizer(kead.MODEL, allow_download=kead.ALLOW_DOWNLOAD)
            context = getattr(clip, "context_length", 77)
            # Sources may share an object, which takes a while.
            encoded = {
                thing: build_text_features(clip, tokenizer, thing, context_length=context)
                for thing in dict.fromkeys(described.values())
            }
            texts = {source: encoded[thing] for source, thing in described.items()}
        encoder = ClipEncoder(
            clip,
            precision=scorer.PRECISION,
            feature_layers=kead.FEATURE_LAYERS,
            num_vv_blocks=kead.NUM_VV_BLOCKS,
            residual=kead.RESIDUAL,
        )
        return {
            "encoder": encoder,
            "text": texts.pop(None, None),
            "text_by_source": texts,
            "image_size": scorer.IMAGE_SIZE,
            "mode": kead.MODE,
            "temperature": kead.TEMPERATURE,
        }

    @torch.no_grad()
    def fit(self, images: Tensor | Iterable[Tensor]) -> "KeadScorer":
        """Keeps all patches of a few normal images; does nothing in mode "zero_shot".

        Raises:
            ValueError: there are no images, or their patches are not finite.
        """
        if not self.uses_memory:
            return self
        layers = []
        for batch in as_batches(images):
            if len(batch) == 0:
                continue
            _, patches, _ = self.encoder(batch)
            layers.append(torch.stack([p[:, 1:].flatten(0, 1) for p in patches]))
        if not layers:
            raise ValueError(
                "KeAD's few-shot map was given no normal images. List some in "
                "AGSSP.SCORER.NORMAL_IMAGES, sample them by AGSSP.SCORER.NORMAL_SAMPLE, take calm "
                "parts of images by AGSSP.SCORER.CALM_WINDOWS, or set AGSSP.SCORER.KEAD.MODE "
                "zero_shot."
            )
        memory = F.normalize(torch.cat(layers, dim=1), dim=-1)
        check_finite(memory, "CLIP's patches of the normal images")
        self.memory = memory
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, source: str = "") -> AnomalyScores:
        """RGB images (N, 3, H, W), float32 in [0, 255] -> raw scores.

        Raises:
            RuntimeError: a few-shot scorer was not fitted.
        """
        if self.uses_memory and self.memory.shape[1] == 0:
            raise RuntimeError("KeAD is not fitted: call fit(normal_images) first.")
        check_images(images)
        embedding, patches, grid = self.encoder(images)
        maps = torch.zeros(len(embedding), *grid, device=embedding.device)
        if self.uses_text:
            ending = self.text_endings.get(source, "")
            sides = (getattr(self, f"{name}{ending}") for name in _TEXTS)
            texts = (*sides, self.temperature)
            maps = maps + text_anomaly_maps(patches, *texts, grid)
            scores = text_anomaly_image_scores(embedding, *texts)
        if self.uses_memory:
            maps = maps + few_shot_maps(patches, self.memory, grid)
            strongest = strongest_cells(maps)
            scores = (scores + strongest) / 2 if self.uses_text else strongest
        return AnomalyScores(maps, scores)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Takes over a :meth:`learned_state`; its texts to the bit, which another machine may have
        encoded.

        Raises:
            ValueError: it is another scorer's, or of other descriptions.
        """
        own = self.learned_state()
        for name in (name for name in own if name.startswith(_TEXTS)):
            old, new = state.get(name), own[name]
            if old is not None and not _same_text(old.cpu(), new.cpu()):
                raise ValueError(
                    f"The stored scorer was made with other descriptions ({name} differs, of shape "
                    f"{tuple(old.shape)} there and {tuple(new.shape)} here). Restore "
                    "AGSSP.SCORER.KEAD.DESCRIPTIONS as they were, or choose another folder."
                )
        super().load_learned_state(state)


def check_settings(mode: str, temperature: float) -> None:
    """Raises ValueError for an unknown mode, or a temperature that is not positive."""
    if mode not in MODES:
        raise ValueError(f"AGSSP.SCORER.KEAD.MODE is {mode!r}. Choices: {', '.join(MODES)}.")
    if not temperature > 0:
        raise ValueError(f"AGSSP.SCORER.KEAD.TEMPERATURE must be positive, got {temperature}.")


def _same_text(first: Tensor, second: Tensor) -> bool:
    """Unit vectors that differ by no more than rounding does on another machine."""
    return first.shape == second.shape and bool(((first - second).norm(dim=-1) < 1e-4).all())


@ANOMALY_SCORER_REGISTRY.register()
def kead(cfg) -> KeadScorer:
    """``AGSSP.SCORER.NAME: kead``."""
    return KeadScorer(cfg)
