"""Scorers as another package would write them, one for each kind of sample to fit on."""

import torch
import torch.nn.functional as F

from detectron2_agssp.scoring import AnomalyScorer, AnomalyScores

CELL = 8


def cells_of(images):
    """(N, 3, H, W) -> mean brightness of each cell, (N, h, w)."""
    return F.avg_pool2d(images.mean(dim=1), CELL)


class Contrast(AnomalyScorer):
    """Learns nothing, and has no tensor: distance to the image's own mean."""

    fit_sample = "none"
    image_size, stride, size_divisor = 64, CELL, CELL

    def forward(self, images):
        cells = cells_of(images.to(self.device))
        maps = (cells - cells.mean(dim=(1, 2), keepdim=True)).abs()
        return AnomalyScores(maps, maps.amax(dim=(1, 2)))


class Brightness(Contrast):
    """Distance to the mean of all images that it was given."""

    fit_sample = "unlabeled"

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def fit(self, images):
        self.mean.fill_(torch.cat([cells_of(batch).flatten() for batch in images]).mean())
        return self

    def forward(self, images):
        maps = (cells_of(images.to(self.device)) - self.mean).abs()
        return AnomalyScores(maps, maps.amax(dim=(1, 2)))


class NormalBrightness(Brightness):
    """The same, of normal images."""

    fit_sample = "normal"


class SourceBrightness(Contrast):
    """The same, for each source by itself."""

    fit_sample = "per_source"
    images_per_source = 2

    def __init__(self):
        super().__init__()
        # By the order of the sources' names, which are kept as bytes.
        self.register_buffer("names", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("means", torch.zeros(0))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    def fit(self, images):
        cells = {source: [cells_of(batch) for batch in images[source]] for source in images}
        self.names = torch.tensor(list("\n".join(cells).encode()), dtype=torch.uint8)
        self.means = torch.stack([torch.cat(batches).mean() for batches in cells.values()])
        self.counts = torch.tensor([sum(map(len, batches)) for batches in cells.values()])
        return self

    def forward(self, images, source):
        known = bytes(self.names.tolist()).decode().split("\n")
        maps = (cells_of(images) - self.means[known.index(source)]).abs()
        return AnomalyScores(maps, maps.amax(dim=(1, 2)))
