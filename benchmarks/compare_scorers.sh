#!/usr/bin/env bash
# Anomaly scorers side by side: fitted on train, judged on test against the labels, by class.
#
#   benchmarks/compare_scorers.sh magnetic_tile OUT [scorer ...]
#   benchmarks/compare_scorers.sh neu_det OUT [scorer ...]
#
# Scorers: mahalanobis[_256], mahalanobis_centered[_256], mutual[_fine], memory, synthetic,
# ensemble, mutual_dinov2 (its weights: DINOV2=/path/to/model.safetensors, else downloaded). Needs
# datasets/prepare_<name>.py to have run ($DETECTRON2_DATASETS). NEU-DET has no normal images, so
# `memory` takes a random sample there. A scorer that is finished is skipped.
set -euo pipefail
name=${1:?data set, e.g. magnetic_tile}
out=${2:?output folder}
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
root=$(realpath "${DETECTRON2_DATASETS:-datasets}")/$name
python=${PYTHON:-python}
# One source each, whatever the folders below are called.
mkdir -p "$out/train" "$out/test"
ln -sfn "$root/images/train" "$out/train/train"
if [ "$name" = magnetic_tile ]; then
    # Images without a defect have no mask to be judged by.
    mkdir -p "$out/test/test"
    for folder in "$root"/images/test/*; do
        case $folder in *MT_Free) ;; *) ln -sfn "$folder" "$out/test/test/" ;; esac
    done
    normal="AGSSP.SCORER.NORMAL_IMAGES ('train/MT_Free/*01.jpg','train/MT_Free/*11.jpg')"
else
    ln -sfn "$root/images/test" "$out/test/test"
    normal="AGSSP.SCORER.NORMAL_SAMPLE 32"
fi

settings() {
    case $1 in
    mahalanobis) echo mahalanobis ;;
    mahalanobis_256) echo mahalanobis AGSSP.SCORER.IMAGE_SIZE 256 ;;
    mahalanobis_centered)
        echo mahalanobis "AGSSP.SCORER.STRIDES (8,16)" AGSSP.SCORER.CENTER True ;;
    mahalanobis_centered_256)
        echo mahalanobis "AGSSP.SCORER.STRIDES (8,16)" AGSSP.SCORER.CENTER True \
            AGSSP.SCORER.IMAGE_SIZE 256 ;;
    mutual) echo mutual ;;
    mutual_fine) echo mutual AGSSP.SCORER.IMAGE_SIZE 256 "AGSSP.SCORER.STRIDES (8,16)" ;;
    synthetic) echo synthetic ;;
    ensemble) echo ensemble ;;
    mutual_dinov2) echo mutual_dinov2 AGSSP.SCORER.WEIGHTS "${DINOV2:-timm}" ;;
    memory) echo memory AGSSP.SCORER.IMAGE_SIZE 256 "$normal" ;;
    *) echo "unknown scorer $1" >&2; exit 2 ;;
    esac
}

for scorer in "${@:-mahalanobis}"; do
    [ -e "$out/$scorer.json" ] && continue
    read -r config overrides <<<"$(settings "$scorer")"
    # Nothing is clipped, so that the ranking of all pixels is judged.
    common=(--config-file "$here/configs/maps/$config.yaml" $overrides
        AGSSP.CALIBRATION.LOW_QUANTILE 0.0 AGSSP.CALIBRATION.HIGH_QUANTILE 1.0
        AGSSP.CALIBRATION.MAX_IMAGES 64)
    start=$SECONDS
    "$python" -W ignore -m detectron2_agssp maps "$out/train" "$out/maps/$scorer/train" \
        --fit-only "${common[@]}" >"$out/$scorer.log" 2>&1
    fitted=$SECONDS
    "$python" -W ignore -m detectron2_agssp maps "$out/test" "$out/maps/$scorer/test" \
        --fitted-by "$out/maps/$scorer/train" "${common[@]}" >>"$out/$scorer.log" 2>&1
    echo "$scorer: fit $((fitted - start)) s, score $((SECONDS - fitted)) s" | tee -a "$out/times.txt"
    "$python" -W ignore -m detectron2_agssp evaluate maps "$out/maps/$scorer/test" \
        "$root/annotations/test.json" --output "$out/$scorer.json"
done
