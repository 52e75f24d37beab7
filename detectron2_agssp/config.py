"""Every configuration key of the plugin, with its unit and allowed values."""

from detectron2.config import CfgNode

PIP_LITE0_WEIGHTS = "pip:efficientnet-lite0"


def add_agssp_config(cfg: CfgNode) -> CfgNode:
    """Adds the ``AGSSP`` node to ``cfg``; a node that is already there is left as it is.

    Importing the package does this to Detectron2's defaults, so ``get_cfg()`` already has it.
    """
    if "AGSSP" in cfg:
        return cfg

    # Mapper: "" (Detectron2's own), "AnomalyMapMapper" or "TwoViewMapper" (AGBP), "PseudoBoxMapper"
    # (AGDP), or "DetectionMapper" (fine-tuning): Detectron2's with the images read as maps' are.
    # All but "" test on images that are read that way.
    cfg.AGSSP = CfgNode({"MAPPER": ""})

    # ---- Stage 0: anomaly maps -------------------------------------------------------------
    scorer = cfg.AGSSP.SCORER = CfgNode()
    # A name in ANOMALY_SCORER_REGISTRY.
    scorer.NAME = "mahalanobis"
    # "" takes CUDA where there is one, else the CPU; or a torch device such as "cuda:1".
    scorer.DEVICE = ""
    # Patch features of the scorers without text: "timm" (MODEL, WEIGHTS, STRIDES or BLOCKS),
    # "detectron2" (MODEL.BACKBONE, MODEL.WEIGHTS, IN_FEATURES) or "clip" (KEAD.MODEL, PRETRAINED,
    # FEATURE_LAYERS).
    scorer.FEATURES = "timm"
    # Any timm model with `features_only`.
    scorer.MODEL = "tf_efficientnet_lite0"
    # "" random; "timm" downloads timm's default weights; "pip:efficientnet-lite0"; or a path.
    scorer.WEIGHTS = PIP_LITE0_WEIGHTS
    # Feature levels, as strides in pixels of the resized image.
    scorer.STRIDES = (8, 16, 32)
    # Or of a plain Vision Transformer (DINOv2, DINOv3) as its blocks from 1, after its final norm,
    # such as (3, 6, 9, 12); () takes STRIDES.
    scorer.BLOCKS = ()
    # Feature levels by the backbone's names, such as ("res3", "res4"); () takes all.
    scorer.IN_FEATURES = ()
    # Side of the local average over each level, cells, odd; 1 switches it off.
    scorer.POOL_SIZE = 3
    # `mahalanobis`: subtract each image's mean feature: what is odd within its own image.
    scorer.CENTER = False
    # Of the network: "fp32", "bf16" or "fp16".
    scorer.PRECISION = "fp32"
    # "square": images are resized to IMAGE_SIZE x IMAGE_SIZE pixels; "aspect": to as many pixels,
    # in their own aspect ratio; "tile": overlapping tiles of IMAGE_SIZE pixels, for large images.
    scorer.RESIZE = "square"
    # Pixels a side; maps have side / (smallest stride) cells.
    scorer.IMAGE_SIZE = 384
    # Of neighbouring tiles, as a share of their side, in [0, 0.5].
    scorer.TILE_OVERLAP = 0.25
    # Images are scaled by it before they are tiled.
    scorer.TILE_SCALE = 1.0
    # Images a batch.
    scorer.BATCH_SIZE = 16
    # Processes that decode images; 0: the main one; -1: 4 where a GPU scores, else 0, as they take
    # the cores from the network.
    scorer.NUM_WORKERS = -1
    # Images used for fitting: 0 takes all, else a sample of this many.
    scorer.FIT_IMAGES = 0
    # Fit on each source (an image's first folder) alone, where it has 16 images or more; samples
    # are then of each source. Images of other sources are scored by a fit on all. `mutual` compares
    # within sources anyway. Off, as it has brought nothing (docs/maps.md).
    scorer.PER_SOURCE = False
    # For `memory` and KeAD's few-shot maps: images, folders or patterns ("good/*.png") below the
    # image folder or absolute, or a .txt file of them; and so many at random beside those.
    scorer.NORMAL_IMAGES = ()
    scorer.NORMAL_SAMPLE = 0
    # And so many windows of images, at most one of each: the calmest by a first map, `mutual`'s of
    # 200 images, for folders in which most images have defects.
    scorer.CALM_WINDOWS = 0
    # Side of a calm window, as a share of its image's shorter side, in (0, 1].
    scorer.CALM_SIDE = 0.5
    # Of the samples, and of random weights.
    scorer.SEED = 0

    scorer.MAHALANOBIS = CfgNode()
    # Ridge on the covariance, as a share of its mean variance.
    scorer.MAHALANOBIS.SHRINKAGE = 0.3

    scorer.MUTUAL = CfgNode()
    # Images of its own source that each image is compared with, at most.
    scorer.MUTUAL.REFERENCES = 32
    # Share of them, the most similar for each patch, whose distances count.
    scorer.MUTUAL.LOWEST = 0.3
    # Sides of the local averages, cells, odd; the scores are averaged.
    scorer.MUTUAL.NEIGHBOURHOODS = (1, 3, 5)

    scorer.MEMORY = CfgNode()
    # Patches kept, and patches (a uniform sample of all) that they are chosen from.
    scorer.MEMORY.SIZE = 4096
    scorer.MEMORY.CANDIDATES = 100_000

    synthetic = scorer.SYNTHETIC = CfgNode()
    # Training of the decoder on drawn defects: iterations, images of each, and AdamW's first rate.
    synthetic.ITERATIONS = 600
    synthetic.BATCH_SIZE = 8
    synthetic.BASE_LR = 0.002
    # Channels of the decoder.
    synthetic.WIDTH = 32
    # Images to draw into that are kept in memory, a uniform sample of those fitted on.
    synthetic.POOL = 1000
    # Share of each image's background, where the loss is highest, that does not count, in [0, 1):
    # real defects are there.
    synthetic.IGNORED = 0.1

    ensemble = scorer.ENSEMBLE = CfgNode()
    # Two scorers or more: of each its name and, as on a command line, what it has of its own of
    # IMAGE_SIZE, STRIDES, BLOCKS, IN_FEATURES, POOL_SIZE, CENTER and its node's keys ("mutual
    # STRIDES (16,32)"); the rest is as above.
    ensemble.MEMBERS = ("mahalanobis", "synthetic IMAGE_SIZE 256 STRIDES (4,8,16,32)")
    # "ranks": of each cell among all, as Fisher combines tests; or "product", of the scores.
    ensemble.COMBINE = "ranks"

    kead = scorer.KEAD = CfgNode()
    # A ViT of open_clip, and its weights: a path, or a tag of open_clip's ("" random).
    kead.MODEL = "ViT-B-16-plus-240"
    kead.PRETRAINED = "laion400m_e32"
    # A tag that is not in the local cache may be downloaded.
    kead.ALLOW_DOWNLOAD = False
    # Descriptions of objects and their defects: a built-in (such as "neu_det", "metal_surface") or
    # a yaml file; and which object of it ("": the only one).
    kead.DESCRIPTIONS = "metal_surface"
    kead.OBJECT = ""
    # Sources (first folders) with texts of their own, "source=object" each: an object of
    # DESCRIPTIONS, or other descriptions (built-in or a file) of one object. The rest has OBJECT's.
    kead.OBJECTS_BY_SOURCE = ()
    # "zero_shot" (texts), "few_shot" (normal images) or "both".
    kead.MODE = "zero_shot"
    # Blocks whose patches are compared, from 1; (3, 12, 12, 12) is what the published code does.
    kead.FEATURE_LAYERS = (3, 6, 9, 12)
    # Last blocks with a V-V path, and whether it accumulates.
    kead.NUM_VV_BLOCKS = 9
    kead.RESIDUAL = True
    # Of the softmax between the normal and the anomalous text.
    kead.TEMPERATURE = 0.07

    # Raw scores are mapped linearly: this quantile to 0, that one to 1 (over all cells of the
    # sampled images), and clipped.
    calibration = cfg.AGSSP.CALIBRATION = CfgNode()
    calibration.LOW_QUANTILE = 0.5
    calibration.HIGH_QUANTILE = 0.999
    calibration.MAX_IMAGES = 512
    # What cells near the border of a map have more than those within, in the mean of the sampled
    # images, is taken off them first.
    calibration.BORDER = True
    # All three of each source by its own images, where it has 16 or more, MAX_IMAGES at most.
    calibration.PER_SOURCE = False

    # ---- Stage 1: AGBP -----------------------------------------------------------------------
    distill = cfg.AGSSP.DISTILL = CfgNode()
    # Backbone features whose energy learns to look like the map, and one weight each.
    distill.IN_FEATURES = ("res4", "res5")
    distill.LOSS_WEIGHTS = (1.0, 1.0)
    # How the full map is brought to a feature's size: "area" or "bilinear".
    distill.TARGET_RESIZE = "area"

    # A task beside the distillation: "" none, "SourceClassification", "SimMIM" or "MoCoV3" (which
    # needs AGSSP.MAPPER "TwoViewMapper"). Alone, with DISTILL.LOSS_WEIGHTS of 0, it is the paper's
    # baseline.
    pretext = cfg.AGSSP.PRETEXT = CfgNode()
    pretext.NAME = ""
    pretext.WEIGHT = 1.0
    pretext.SIMMIM = CfgNode()
    # Pixels a side of what is masked as one, and the share of such blocks, in (0, 1).
    pretext.SIMMIM.BLOCK = 32
    pretext.SIMMIM.MASK_RATIO = 0.6
    pretext.MOCO = CfgNode()
    # Channels of projector and predictor.
    pretext.MOCO.HIDDEN_CHANNELS = 4096
    pretext.MOCO.OUT_CHANNELS = 256
    # Of the slow copy at the start, in [0, 1]; it rises to 1 by a cosine.
    pretext.MOCO.MOMENTUM = 0.99
    pretext.MOCO.TEMPERATURE = 1.0

    # ---- Stage 2: AGDP -----------------------------------------------------------------------
    boxes = cfg.AGSSP.BOXES = CfgNode()
    # "mean_max": mean over the data set of each map's maximum, minus MARGIN;
    # "quantile": the QUANTILE of all map values of the data set; "fixed": THRESHOLD itself.
    boxes.THRESHOLD_MODE = "mean_max"
    boxes.MARGIN = 0.1
    boxes.QUANTILE = 0.99
    boxes.THRESHOLD = 0.5
    # "mean_max" and "quantile" of each source by its own maps, as in the paper, or of all maps.
    boxes.PER_SOURCE = False
    boxes.MAX_BOXES = 10
    boxes.NMS_IOU = 0.8
    # 0: a box is a component above the threshold (the paper). In (0, 1): the region around a peak
    # above the threshold, down to this share of it; 0.5 finds twice as many defects in energies.
    boxes.EXTENT = 0.0
    # Of AGDP, in agssp pretrain: from the second on, it starts anew and learns what the detector of
    # the round before finds, as many boxes as the maps gave.
    boxes.ROUNDS = 1
    # Multiply what a pseudo-box teaches by its score, in [0, 1], in every detector.
    boxes.WEIGHT_BY_SCORE = False

    # ---- Images ------------------------------------------------------------------------------
    image_input = cfg.AGSSP.INPUT = CfgNode()
    # How AGSSP's mappers and maps read images; a file with values beyond its scale is refused.
    # Significant bits of integers stored with more than 8: 0 means 16; 12 for a 12-bit camera.
    image_input.BIT_DEPTH = 0
    # White in floating-point images (TIFF, EXR, HDR); black is 0.
    image_input.FLOAT_MAX = 1.0
    # Of an image, at most: a larger one is refused before it is decoded.
    image_input.MAX_PIXELS = 100_000_000
    # AGBP augmentation, beside INPUT.MIN_SIZE_TRAIN, CROP and RANDOM_FLIP. Degrees, (min, max).
    image_input.ROTATION = (0.0, 0.0)
    # Largest relative change of brightness, contrast and saturation, each in [0, 1); image only.
    image_input.COLOR_JITTER = (0.0, 0.0, 0.0)
    # `PseudoBoxMapper` and `DetectionMapper`: share of training images, in [0, 1], that are made of
    # windows of four, until this share of the training, in (0, 1] (counted anew by a run that goes
    # on).
    image_input.MOSAIC = 0.0
    image_input.MOSAIC_UNTIL = 0.9
    # `TwoViewMapper`: share of the image's area that a view shows, (min, max) in (0, 1]; a view is
    # resized to INPUT.CROP.SIZE.
    image_input.VIEW_AREA = (0.2, 1.0)

    # ---- Backbones from timm -----------------------------------------------------------------
    # MODEL.BACKBONE.NAME: build_timm_backbone or build_timm_fpn_backbone.
    # MODEL.BACKBONE.FREEZE_AT: 0 none, 1 stem (stride 2), 2 also res2 (stride 4), ... 5 all.
    timm = cfg.AGSSP.TIMM = CfgNode()
    timm.MODEL = "tf_efficientnet_lite0"
    timm.WEIGHTS = PIP_LITE0_WEIGHTS  # as AGSSP.SCORER.WEIGHTS
    # Strides 4, 8, 16, 32; or ("last_feat",), the deepest: all that plain Vision Transformers have.
    timm.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    # "": the model's own; "FrozenBN": fixed statistics and affine; "SyncBN": across processes.
    timm.NORM = "FrozenBN"

    # ---- Swin Transformers ---------------------------------------------------------------------
    # MODEL.BACKBONE.NAME: build_swin_backbone or build_swin_fpn_backbone. FREEZE_AT: 1 the patch
    # embedding, 2 also res2, ... 5 all.
    swin = cfg.AGSSP.SWIN = CfgNode()
    # "nano" (for two CPU cores), "tiny", "small" or "base"; the next three override it where they
    # are set.
    swin.SIZE = "base"
    swin.EMBED_DIM = 0  # channels of res2, doubled at each stage
    swin.DEPTHS = ()  # blocks of each stage
    swin.NUM_HEADS = ()  # attention heads of each stage
    # Cells a side: 7 for ImageNet's weights, 6 for SimMIM's at 192 pixels.
    swin.WINDOW_SIZE = 7
    # Stochastic depth of the last block, in [0, 1); it grows linearly from 0.
    swin.DROP_PATH_RATE = 0.2
    swin.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    # Compute blocks again in the backward pass: less memory, more time.
    swin.USE_CHECKPOINT = False

    # ---- Plain Vision Transformers ---------------------------------------------------------------
    # MODEL.BACKBONE.NAME: build_vit_backbone (AGBP distils "last_feat") or build_vit_fpn_backbone.
    # FREEZE_AT: 1 the patch embedding, then a quarter of the blocks each, 5 all.
    vit = cfg.AGSSP.VIT = CfgNode()
    # "tiny", "small", "base" or "large".
    vit.SIZE = "base"
    vit.PATCH_SIZE = 16  # pixels
    # Cells a side of the windows of all but four blocks; 0: every block sees the whole image.
    vit.WINDOW_SIZE = 14
    vit.DROP_PATH_RATE = 0.1
    # Pixels a side that the weights' position table was made for.
    vit.PRETRAIN_IMAGE_SIZE = 224
    vit.USE_CHECKPOINT = False

    # ---- CSPDarknet -----------------------------------------------------------------------------
    # MODEL.BACKBONE.NAME: build_cspdarknet_backbone or build_cspdarknet_pafpn_backbone.
    # FREEZE_AT: 1 the stem, 2 also res2, ... 5 all.
    csp = cfg.AGSSP.CSPDARKNET = CfgNode()
    # "nano", "small", "medium" or "large".
    csp.SIZE = "small"
    csp.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    # "BN", "SyncBN" across processes, or "FrozenBN": fixed statistics and affine.
    csp.NORM = "BN"

    # ---- FCOS ------------------------------------------------------------------------------------
    # MODEL.META_ARCHITECTURE: FCOS, on any pyramid (on ResNets build_fcos_resnet_fpn_backbone).
    # TEST.DETECTIONS_PER_IMAGE holds as ever.
    fcos = cfg.AGSSP.FCOS = CfgNode()
    fcos.NUM_CLASSES = 80
    fcos.IN_FEATURES = ("p3", "p4", "p5", "p6", "p7")
    fcos.NUM_CONVS = 4  # of each branch, before the predictors
    fcos.NORM = "GN"  # of these convolutions; "" none, or a name of detectron2.layers.get_norm
    # Score of every class before training, in (0, 1).
    fcos.PRIOR_PROB = 0.01
    # Points so near the centre of a box are positive; strides of their level.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # Scores are square roots of class score times centreness, in [0, 1].
    fcos.SCORE_THRESH_TEST = 0.2
    fcos.TOPK_CANDIDATES_TEST = 1000  # of each level, before NMS
    fcos.NMS_THRESH_TEST = 0.6  # IoU

    # ---- YOLO ------------------------------------------------------------------------------------
    # MODEL.META_ARCHITECTURE: YOLO, on any backbone with these levels; TEST.DETECTIONS_PER_IMAGE
    # holds as ever.
    yolo = cfg.AGSSP.YOLO = CfgNode()
    yolo.NUM_CLASSES = 80
    yolo.IN_FEATURES = ("p3", "p4", "p5")  # from the finest
    # Of a side's distribution: a box reaches NUM_BINS - 1 strides from its point.
    yolo.NUM_BINS = 16
    yolo.HEAD_CHANNELS = 0  # 0: as many as the finest level has
    yolo.BOX_CHANNELS = 0  # of the box branch; 0: as HEAD_CHANNELS; 64 in mmyolo's detectors
    yolo.NORM = "BN"  # of the head; "SyncBN" across processes, "FrozenBN"
    # Score of every class before training, in (0, 1).
    yolo.PRIOR_PROB = 0.01
    # A box is learnt at so many points, the best by score^ALPHA * IoU^BETA.
    yolo.ASSIGN_TOPK = 10
    yolo.ASSIGN_ALPHA = 0.5
    yolo.ASSIGN_BETA = 6.0
    # Of the losses: cross entropy, CIoU, distribution focal loss.
    yolo.CLS_WEIGHT = 0.5
    yolo.BOX_WEIGHT = 7.5
    yolo.DFL_WEIGHT = 1.5
    yolo.SCORE_THRESH_TEST = 0.001
    yolo.TOPK_CANDIDATES_TEST = 3000  # pairs of point and class per image, before NMS
    yolo.NMS_THRESH_TEST = 0.7  # IoU

    # ---- DINO ------------------------------------------------------------------------------------
    # MODEL.META_ARCHITECTURE: DINO, on any backbone with these levels, and no pyramid (such as
    # build_resnet_backbone); TEST.DETECTIONS_PER_IMAGE holds as ever.
    dino = cfg.AGSSP.DINO = CfgNode()
    dino.NUM_CLASSES = 80
    dino.IN_FEATURES = ("res3", "res4", "res5")  # from the finest; a level is made of the last
    # Queries, 100 to 900: the most that can be found in an image.
    dino.NUM_QUERIES = 900
    dino.HIDDEN_DIM = 256  # channels, a multiple of 32 and of NUM_HEADS
    dino.FEEDFORWARD_DIM = 2048
    dino.ENCODER_LAYERS = 6
    dino.DECODER_LAYERS = 6
    dino.NUM_HEADS = 8
    dino.NUM_POINTS = 4  # that a head looks at on each level
    # Score of every class before training, in (0, 1).
    dino.PRIOR_PROB = 0.01
    # Denoising: queries per image at most, half of them with strong noise (0: none); share of
    # labels that become another class, in [0, 1]; of noise on boxes, where 1 shifts sides by up to
    # half a box, and by a half to a whole where it is strong.
    dino.DN_QUERIES = 300
    dino.DN_LABEL_NOISE = 0.25
    dino.DN_BOX_NOISE = 1.0
    # Of class (focal), L1 and GIoU, in the matching of queries and boxes, and of the losses.
    dino.MATCH_WEIGHTS = (2.0, 5.0, 2.0)
    dino.LOSS_WEIGHTS = (1.0, 5.0, 2.0)
    dino.FOCAL_LOSS_ALPHA = 0.25
    dino.FOCAL_LOSS_GAMMA = 2.0

    # A path-aggregation pyramid on ResNet or Swin: build_resnet_pafpn_backbone,
    # build_swin_pafpn_backbone (CSPDarknet's is as wide as its features).
    pafpn = cfg.AGSSP.PAFPN = CfgNode()
    pafpn.OUT_CHANNELS = (128, 256, 512)  # of p3, p4 and p5
    pafpn.DEPTH = 1  # refining steps of each block
    pafpn.NORM = "BN"  # "SyncBN" across processes, "FrozenBN"

    # ---- Teacher rounds (MODEL.META_ARCHITECTURE "TeacherStudent") -----------------------------
    teacher = cfg.AGSSP.TEACHER = CfgNode()
    # The detector that is taught.
    teacher.META_ARCHITECTURE = "GeneralizedRCNN"
    # Registered data sets, whose labels are not read, or folders of images. With AGSSP.MAPPER
    # "TeacherMapper".
    teacher.UNLABELED = ()
    # Unlabelled images beside each labelled one.
    teacher.RATIO = 1
    # Those as similar as this to an image of DATASETS.TEST are left out, in (0, 1]; 0: none is.
    teacher.NEAR_DUPLICATES = 0.9
    # Registered data sets with labels of some of these images. Nothing learns from them: they tell
    # the precision and recall of pseudo-labels, in the log.
    teacher.WITHHELD = ()
    # Share of SOLVER.MAX_ITER on labels alone, in [0, 1).
    teacher.BURN_IN = 0.2
    # Of the teacher, a moving average of the student, per iteration, at most; in (0, 1).
    teacher.DECAY = 0.999
    # Of the losses of unlabelled images.
    teacher.WEIGHT = 1.0
    # Detections from this score on are taken for true, in (0, 1]; 0: by class, so that there are
    # BOX_SHARE of the boxes that labels let expect, within SCORE_BOUNDS.
    teacher.SCORE_THRESHOLD = 0.0
    teacher.BOX_SHARE = 0.8
    teacher.SCORE_BOUNDS = (0.3, 0.9)
    # Detections from this share of the threshold on are erased from what the student sees, neither
    # defect nor background, in [0, 1]; 1: none is.
    teacher.UNCERTAIN = 0.5
    # How much a map takes from the weight of a box that is calmer than its surroundings, in [0, 1].
    # Off, as it has brought nothing (docs/teacher.md).
    teacher.GUIDANCE = 0.0
    # Erase components of the map, cut by AGSSP.BOXES, on which no detection lies. Off, likewise.
    teacher.IGNORE_COMPONENTS = False
    # The student's view: (min, max) by which it is scaled beside INPUT, and rectangles of up to
    # this share of its area that are cut out.
    teacher.SCALE = (0.75, 1.25)
    teacher.CUT_OUT = 0.05

    # ---- Data sets -----------------------------------------------------------------------------
    data = cfg.AGSSP.DATA = CfgNode()
    # Data sets that this config brings along, [name, COCO json, image folder] each: registered
    # with Detectron2 where the config is read. `agssp init` writes it.
    data.COCO = ()
    # Of DATASETS.TRAIN, the share of images in [0, 1) that tools/train_net.py and `agssp train`
    # keep as the validation set of AGSSP.SOLVER.BEST_METRIC where DATASETS.TEST has none; 0: no.
    data.VALIDATION = 0.2
    dataloader = cfg.AGSSP.DATALOADER = CfgNode()
    # With DATALOADER.SAMPLER_TRAIN "WeightedTrainingSampler": p in [0, 1]; a source of n images has
    # n^(1-p) parts of an epoch, so that 0 shows all images alike and 1 all sources.
    dataloader.SOURCE_POWER = 0.0

    # ---- Prediction ----------------------------------------------------------------------------
    predict = cfg.AGSSP.PREDICT = CfgNode()
    # Names in the order of training; () takes those that are recorded with the weights.
    predict.CLASSES = ()
    # Images, or tiles, a batch. On a CPU several batches are predicted at once.
    predict.BATCH_SIZE = 8
    # Threads that read images and, on a CPU, share its cores between them; -1: up to 4.
    predict.NUM_WORKERS = -1
    # Of the network: "fp32"; "bf16", on a CPU where it has instructions for it; "fp16" on a GPU.
    predict.PRECISION = "fp32"
    # Of neighbouring tiles, as a share of their side, in (0, 0.5].
    predict.TILE_OVERLAP = 0.2
    # Draw every image into pictures/.
    predict.PICTURES = True
    # A map folder of the same images, whose maps the report shows beside the detections; "" none.
    predict.MAPS = ""

    # ---- Training, in any DefaultTrainer -----------------------------------------------------
    # SOLVER.CLIP_GRADIENTS.CLIP_TYPE knows "full_model", too: the norm of all gradients together.
    solver = cfg.AGSSP.SOLVER = CfgNode()
    solver.OPTIMIZER = "SGD"  # Detectron2's own, or "ADAMW"
    # Of AdamW; and modules or parameters by name, such as "backbone", with their share of the rate.
    solver.BETAS = (0.9, 0.999)
    solver.SLOW_PARTS = ()
    solver.SLOW_FACTOR = 0.1
    # Passes over DATASETS.TRAIN: MAX_ITER becomes so many, and STEPS, CHECKPOINT_PERIOD and
    # TEST.EVAL_PERIOD keep their share of it. 0: iterations as they are, as also where KEY VALUE
    # pairs, such as those of a command line, name SOLVER.MAX_ITER without these.
    solver.EPOCHS = 0.0
    # With EPOCHS: replaces WARMUP_ITERS where it is positive.
    solver.WARMUP_EPOCHS = 0.0

    # ---- Training, in tools/train_net.py and `agssp train` -----------------------------------
    # SOLVER.AMP.ENABLED works on CPUs, too: bfloat16, where they have instructions for it.
    # Evaluate, and save at the end, a moving average of the weights with this decay per iteration,
    # in [0, 1), such as 0.9999; 0: the weights themselves.
    solver.EMA_DECAY = 0.0
    # Save model_best.pth by this metric, e.g. "bbox/AP"; "" does not. Needs TEST.EVAL_PERIOD.
    solver.BEST_METRIC = ""
    # Stop after so many evaluations in a row without a better BEST_METRIC; 0: never.
    solver.PATIENCE = 0
    # Experiment trackers beside TensorBoard: "mlflow", "wandb", if they are installed.
    solver.TRACKERS = ()
    return cfg


def extend_default_config() -> None:
    """Adds the ``AGSSP`` node to the defaults that ``detectron2.config.get_cfg()`` copies."""
    from detectron2.config.defaults import _C

    add_agssp_config(_C)


def settings_of(node: CfgNode) -> dict:
    """``node`` as plain, JSON-ready Python: nested dicts, tuples as lists."""
    plain: dict = {}
    for key, value in sorted(node.items()):
        if isinstance(value, CfgNode):
            plain[key] = settings_of(value)
        else:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain
