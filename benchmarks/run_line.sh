#!/usr/bin/env bash
# The whole line on one data set, CPU-sized: maps, AGBP, AGDP, fine-tuning; and fine-tuning of the
# same detector from ImageNet for the same iterations. Figures end up in OUT/*/metrics.json.
#
#   benchmarks/run_line.sh neu_det       6 neu_det_train_10pct_draw0       neu_det_test       OUT
#   benchmarks/run_line.sh magnetic_tile 5 magnetic_tile_train_25pct_draw0 magnetic_tile_test OUT
#
# Needs datasets/prepare_<name>.py to have run ($DETECTRON2_DATASETS). A finished stage is skipped.
set -euo pipefail
name=${1:?data set, e.g. neu_det}
classes=${2:?number of classes}
train=${3:?labelled training split}
test=${4:?test split}
out=${5:?output folder}
root=${DETECTRON2_DATASETS:-datasets}
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
iterations=${ITERATIONS:-250}
mkdir -p "$out"

run() { # stage, config, overrides ...
    local stage=$1 config=$2
    shift 2
    [ -e "$out/$stage/done" ] && return
    local start=$SECONDS
    "$python" -W ignore "$here/tools/train_net.py" --config-file "$here/configs/$config" \
        OUTPUT_DIR "$out/$stage" "$@" >"$out/$stage.log" 2>&1
    echo "$stage $((SECONDS - start)) s" | tee -a "$out/times.txt"
    touch "$out/$stage/done"
}

start=$SECONDS
"$python" -W ignore "$here/tools/generate_anomaly_maps.py" "$root/$name/images/train" \
    "$root/agssp/$name" --config-file "$here/configs/maps/mahalanobis.yaml"
echo "maps $((SECONDS - start)) s" | tee -a "$out/times.txt"
run agbp agbp/lite0.yaml DATASETS.TRAIN "('agssp_$name',)"
run agdp agdp/faster_rcnn_lite0_fpn.yaml DATASETS.TRAIN "('agssp_${name}_boxes',)" \
    MODEL.WEIGHTS "$out/agbp/model_final.pth" SOLVER.MAX_ITER "$iterations"
for start_from in agssp imagenet; do
    weights=""
    [ "$start_from" = agssp ] && weights="$out/agdp/model_final.pth"
    run "finetune_$start_from" finetune/faster_rcnn_lite0_fpn.yaml MODEL.WEIGHTS "$weights" \
        DATASETS.TRAIN "('$train',)" DATASETS.TEST "('$test',)" \
        MODEL.ROI_HEADS.NUM_CLASSES "$classes" SOLVER.MAX_ITER "$iterations"
done
grep -h -A2 "copypaste: Task: bbox" "$out"/finetune_*.log
