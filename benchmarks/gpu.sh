#!/usr/bin/env bash
# Everything that needs a GPU and no network, in minutes: tests on it, compute-sanitizer on the
# operators' kernels, and what operators, maps, ResNet-50 at 640 px and detectors cost there.
#
#   benchmarks/gpu.sh OUT [STEP...]      STEP: tests memcheck racecheck ops maps agbp agdp inference
#
# A log per step in OUT; a step that fails does not stop the others. $DETECTRON2_DATASETS holds
# neu_det, made by datasets/prepare_neu_det.py. Tests and sanitizers run beside each other, before
# anything is timed.
set -uo pipefail
out=${1:?usage: benchmarks/gpu.sh OUT [STEP...]}
shift
steps=${*:-tests memcheck racecheck ops maps agbp agdp inference}
python=${PYTHON:-python3}
images=${DETECTRON2_DATASETS:-datasets}/neu_det/images/train
maps=${DETECTRON2_DATASETS:-datasets}/agssp/neu_det
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
export PYTHONUNBUFFERED=1

run() { # STEP SECONDS COMMAND...
    local step=$1 seconds=$2 begin=$SECONDS
    shift 2
    [[ " $steps " == *" $step "* ]] || return 0
    local log=$work/$step.$BASHPID.log
    timeout --kill-after=5 "$seconds" "$@" >"$log" 2>&1
    local line="$step: exit status $?, $((SECONDS - begin)) s: $*"
    { echo "$line" && cat "$log"; } >>"$out/$step.log"
    echo "$line"
}

sanitize() { # TOOL SECONDS: of our own kernels, whose names have the namespace; a process per file
    for file in tests/ops/test_*.py; do
        # racecheck looks at shared memory, which the search has none of, and ends in an internal
        # error within cuBLAS.
        [[ $1 == racecheck && $file == *min_cosine* ]] && continue
        run "$1" "$2" compute-sanitizer --tool "$1" --kernel-name kernel_substring=agssp \
            --error-exitcode 9 "$python" -m pytest "$file" -k native-cuda -v -p no:cacheprovider &
    done
    wait
}

# 640 px, random weights: these runs measure time and memory. Random weights need batch norm that
# trains, and small steps, or they diverge.
resnet=(MODEL.WEIGHTS "" MODEL.RESNETS.NORM BN SOLVER.BASE_LR 0.0005
    SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.MAX_ITER 60 SOLVER.CHECKPOINT_PERIOD 1000 VIS_PERIOD 0
    DATALOADER.NUM_WORKERS 12)

run tests 150 "$python" -m pytest tests/ops tests/modeling tests/scoring -m "not slow" -n 6 -q \
    -p no:cacheprovider &
sanitize memcheck 150 &
sanitize racecheck 150 &
wait
run ops 90 "$python" -m benchmarks.ops --device cuda --rounds 2 --without torch.compile \
    --output "$out/ops_gpu.md"
run maps 40 "$python" -m benchmarks.maps "$images" --num-images 256 --threads 8 \
    --config-file agssp://maps/mahalanobis.yaml AGSSP.SCORER.DEVICE cuda
run agbp 70 bash -c '"$0" -m detectron2_agssp maps "$1" "$2" AGSSP.SCORER.DEVICE cuda && shift 2 &&
    "$0" tools/train_net.py --config-file configs/agbp/R50.yaml "$@"' \
    "$python" "$images" "$maps" "${resnet[@]}" OUTPUT_DIR "$work/agbp" AGSSP.SOLVER.EPOCHS 0.0 \
    INPUT.CROP.SIZE "[640, 640]" INPUT.MIN_SIZE_TRAIN "(640, 640)" SOLVER.IMS_PER_BATCH 16
run agdp 60 "$python" tools/train_net.py --config-file configs/agdp/faster_rcnn_R50_fpn.yaml \
    "${resnet[@]}" OUTPUT_DIR "$work/agdp" SOLVER.IMS_PER_BATCH 16 \
    INPUT.MIN_SIZE_TRAIN "(640,)" INPUT.MAX_SIZE_TRAIN 640 MODEL.BACKBONE.FREEZE_AT 2
for step in agbp agdp; do
    [[ -e $work/$step/metrics.json ]] && tail -n 3 "$work/$step/metrics.json" >>"$out/$step.log"
done
for precision in fp32 fp16; do
    run inference 40 "$python" -m benchmarks.inference "$images" --precision $precision \
        --config-file configs/agdp/faster_rcnn_R50_fpn.yaml \
        MODEL.WEIGHTS "$work/agdp/model_final.pth" INPUT.MIN_SIZE_TEST 640 INPUT.MAX_SIZE_TEST 640
    [[ -e $out/inference.log ]] && mv "$out/inference.log" "$out/inference_$precision.log"
done
