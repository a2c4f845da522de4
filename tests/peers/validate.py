"""Runs in .venv-peers: the accuracy of an exported classifier in PyTorch, over a folder of class folders.

    validate.py FOLDER IMAGES             pixels as timm makes them, with its own transform, as its validate.py does
    validate.py FOLDER IMAGES --opencv    pixels as FOLDER/metadata.json says that they were made in training
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from peer import timm, torch  # loaded as they can be here
from PIL import Image


def by_opencv(how):
    """The transform that metadata.json describes: a file to normalised pixels (3, side, side)."""
    short, side = how['resize_short_side'], how['center_crop']
    mean, deviation = np.array(how['mean']), np.array(how['standard_deviation'])

    def transform(path):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]
        height, width = image.shape[:2]
        size = (short, short * height // width) if width < height else (short * width // height, short)
        image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        pixels = (image[top:top + side, left:left + side] - mean) / deviation
        return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))
    return transform


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('images', type=Path)
    parser.add_argument('--opencv', action='store_true')
    options = parser.parse_args()
    model = timm.create_model('local-dir:%s' % options.folder, pretrained=True).eval()
    by_timm = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    described = json.loads((options.folder / 'metadata.json').read_text())
    transform = by_opencv(described['preprocessing']) if options.opencv else \
        lambda path: by_timm(Image.open(path).convert('RGB'))
    files = [(path, label) for label, name in enumerate(described['classes'])
             for path in sorted((options.images / name).iterdir())]
    right = [0, 0]
    with torch.inference_mode():
        for first in range(0, len(files), 256):
            part = files[first:first + 256]
            logits = model(torch.stack([transform(path) for path, _ in part]))
            ranks = (logits > logits[torch.arange(len(part)), [label for _, label in part]][:, None]).sum(dim=1)
            right = [right[0] + int((ranks < 1).sum()), right[1] + int((ranks < 5).sum())]
    print('%d images: top-1 %.3f %% (%d), top-5 %.3f %% (%d)' % (
        len(files), 100 * right[0] / len(files), right[0], 100 * right[1] / len(files), right[1]))


if __name__ == '__main__':
    main()
