"""Reference face detector: the MTCNN cascade in numpy, its networks in ONNX Runtime.

    python tests/reference/mtcnn.py [--models float|int8|DIR] [--min-face-px 40] PICTURE...
    ffmpeg -i CLIP -f rawvideo -pix_fmt rgb24 - | python tests/reference/mtcnn.py --raw 640x360 -

Prints one JSON line per picture or frame: {"source", "frame_idx", "width_px", "height_px", "faces": [{"box": [x0,y0,x1,y1],
"confidence", "landmarks": [[x,y] * 5]}]}, in pixels of the picture; landmarks are left eye, right eye, nose, left
mouth corner, right mouth corner, left being the picture's left.

It follows the pipeline of the facenet-pytorch package step by step (pyramid, area resize, thresholds, the mix of
inclusive and exclusive box widths) so that a detector that agrees with it agrees with the published one.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

REPO = Path(__file__).resolve().parents[2]
FLOAT_MODELS = REPO / ".cache" / "models" / "mtcnn-float"
INT8_MODELS = REPO / "models" / "mtcnn"
PNET_CELL_PX, PNET_STRIDE_PX = 12, 2
STAGES = ("pnet", "rnet", "onet")
THRESHOLDS = (0.6, 0.7, 0.7)
PYRAMID_FACTOR = 0.709
MAX_BATCH = 512


def axis_mean(pixels, n_out, axis):
    """Mean along `axis` over [floor(i n/n_out), ceil((i+1) n/n_out)) for each i: adaptive average pooling."""
    n_in = pixels.shape[axis]
    cells = np.arange(n_out)
    start = cells * n_in // n_out
    stop = -(-(cells + 1) * n_in // n_out)
    zero = np.zeros_like(pixels.take([0], axis), np.float64)
    sums = np.concatenate([zero, np.cumsum(pixels, axis=axis, dtype=np.float64)], axis=axis)
    counts = (stop - start).reshape([-1 if k == axis else 1 for k in range(pixels.ndim)])
    return (sums.take(stop, axis) - sums.take(start, axis)) / counts


def area_resize(pixels, height_px, width_px):
    """[H,W,3] -> [height_px,width_px,3] f32, each output the unweighted mean of every pixel it touches."""
    return axis_mean(axis_mean(pixels, height_px, 0), width_px, 1).astype(np.float32)


def pyramid(height_px, width_px, min_face_px):
    """Scales from faces of `min_face_px` up to one that fills the shorter side."""
    scale = PNET_CELL_PX / min_face_px
    shorter, scales = min(height_px, width_px) * scale, []
    while shorter >= PNET_CELL_PX:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
        shorter *= PYRAMID_FACTOR
    return scales


def suppress(boxes, scores, threshold):
    """Non-maximum suppression by IoU, widths exclusive; kept indices, best first."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        size = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        overlap = np.clip(size, 0, None).prod(axis=1)
        with np.errstate(invalid="ignore"):
            iou = overlap / (area[best] + area[rest] - overlap)
        order = rest[~(iou > threshold)]
    return np.array(kept, int)


def suppress_min(boxes, scores, threshold):
    """Non-maximum suppression by overlap over the smaller box, widths inclusive; kept indices, best first."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order, kept = np.argsort(scores, kind="stable")[::-1], []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        size = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2]) + 1
        overlap = np.clip(size, 0, None).prod(axis=1)
        order = rest[overlap / np.minimum(area[best], area[rest]) <= threshold]
    return np.array(kept, int)


def squared(boxes):
    """Boxes [N,4] grown about their centres to squares of their longer side."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return np.concatenate([corner, corner + side], axis=1)


def regressed(boxes, offsets):
    """Move each edge by its offset times the inclusive box size."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.tile(size, 2)


class Detector:
    """The cascade over three networks: callables from `pixels` [N,3,H,W] f32 to their outputs in order."""

    def __init__(self, networks, min_face_px=20):
        self.pnet, self.rnet, self.onet = networks
        self.min_face_px = min_face_px

    def propose(self, frame):
        """P-Net over the pyramid of [H,W,3]: square boxes [N,4] and scores [N]."""
        height_px, width_px = frame.shape[:2]
        boxes, scores, offsets = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros((0, 4))]
        for scale in pyramid(height_px, width_px, self.min_face_px):
            level = area_resize(frame, int(height_px * scale + 1), int(width_px * scale + 1))
            prob, offset = self.pnet(level.transpose(2, 0, 1)[None])[:2]
            rows, columns = np.nonzero(prob[0, 0] >= THRESHOLDS[0])
            score = prob[0, 0, rows, columns]
            cells = np.stack([columns, rows], axis=1) * PNET_STRIDE_PX
            corners = [np.floor((cells + 1) / scale), np.floor((cells + PNET_CELL_PX) / scale)]
            level_boxes = np.concatenate(corners, axis=1)
            kept = suppress(level_boxes, score, 0.5)
            boxes.append(level_boxes[kept])
            scores.append(score[kept])
            offsets.append(offset[0, :, rows, columns][kept])
        boxes, scores, offsets = (np.concatenate(parts) for parts in (boxes, scores, offsets))
        kept = suppress(boxes, scores, 0.7)
        boxes, scores, offsets = boxes[kept], scores[kept], offsets[kept]
        return squared(boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)), scores

    def crops(self, frame, boxes, side_px):
        """Cut `boxes`, clipped to the picture, and resize: ([N,3,side,side], which boxes were not empty)."""
        height_px, width_px = frame.shape[:2]
        whole = np.trunc(boxes).astype(int)
        x0, y0 = np.maximum(whole[:, :2], 1).T - 1
        x1, y1 = np.minimum(whole[:, 2:], [width_px, height_px]).T
        inside = (x1 > x0) & (y1 > y0)
        cut = [
            area_resize(frame[y0[k] : y1[k], x0[k] : x1[k]], side_px, side_px).transpose(2, 0, 1)
            for k in np.nonzero(inside)[0]
        ]
        return np.array(cut, np.float32).reshape(-1, 3, side_px, side_px), inside

    def detect(self, frame):
        """Faces of u8 RGB [H,W,3]: boxes [N,4], confidences [N], landmarks [N,5,2], best first."""
        boxes, _ = self.propose(frame)
        pixels, inside = self.crops(frame, boxes, 24)
        boxes = boxes[inside]
        if len(boxes):
            scores, offsets = in_batches(self.rnet, pixels)
            passed = scores[:, 0] > THRESHOLDS[1]
            boxes, scores, offsets = boxes[passed], scores[passed, 0], offsets[passed]
            kept = suppress(boxes, scores, 0.7)
            boxes = squared(regressed(boxes[kept], offsets[kept]))
        pixels, inside = self.crops(frame, boxes, 48)
        boxes = boxes[inside]
        if not len(boxes):
            return np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
        scores, offsets, points = in_batches(self.onet, pixels)
        passed = scores[:, 0] > THRESHOLDS[2]
        boxes, scores, offsets, points = boxes[passed], scores[passed, 0], offsets[passed], points[passed]
        size = boxes[:, None, 2:] - boxes[:, None, :2] + 1
        landmarks = size * np.stack([points[:, :5], points[:, 5:]], axis=2) + boxes[:, None, :2] - 1
        boxes = regressed(boxes, offsets)
        kept = suppress_min(boxes, scores, 0.7)
        return boxes[kept], scores[kept], landmarks[kept]


def in_batches(network, pixels):
    parts = [network(pixels[k : k + MAX_BATCH]) for k in range(0, len(pixels), MAX_BATCH)]
    return [np.concatenate(outputs).astype(np.float64) for outputs in zip(*parts)]


def load_network(path, n_threads=1):
    """Return a callable over an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def load_networks(models):
    """Return the three networks of `models`: "float", "int8" or a folder."""
    folder = {"float": FLOAT_MODELS, "int8": INT8_MODELS}.get(models, models)
    return [load_network(Path(folder) / f"{stage}.onnx") for stage in STAGES]


def read_picture(path):
    """Read a picture as u8 RGB [H,W,3], turned as its EXIF says."""
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def read_raw(stream, width_px, height_px):
    """Yield the u8 RGB frames of an rgb24 stream; a partial last frame is dropped."""
    n_bytes = width_px * height_px * 3
    while len(packed := stream.read(n_bytes)) == n_bytes:
        yield np.frombuffer(packed, np.uint8).reshape(height_px, width_px, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="PICTURE", help="pictures, or one raw stream with --raw (- is stdin)")
    parser.add_argument("--models", default="float", help="float, int8 or a folder with pnet/rnet/onet.onnx")
    parser.add_argument("--min-face-px", type=float, default=20)
    parser.add_argument("--raw", metavar="WxH", help="sources are rgb24 streams of this size")
    args = parser.parse_args()

    detector = Detector(load_networks(args.models), args.min_face_px)
    for source in args.sources:
        if args.raw:
            stream = sys.stdin.buffer if source == "-" else open(source, "rb")
            frames = read_raw(stream, *map(int, args.raw.split("x")))
        else:
            frames = [read_picture(source)]
        for frame_idx, frame in enumerate(frames):
            faces = [
                {"box": box.tolist(), "confidence": float(score), "landmarks": points.tolist()}
                for box, score, points in zip(*detector.detect(frame))
            ]
            size = {"width_px": frame.shape[1], "height_px": frame.shape[0]}
            print(json.dumps({"source": source, "frame_idx": frame_idx, **size, "faces": faces}))


if __name__ == "__main__":
    main()
