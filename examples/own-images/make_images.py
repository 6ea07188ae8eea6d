"""Write a small long-tailed data set of image files, as an example of one's own.

python make_images.py        # images/train/<class>/*.png and images/test/<class>/*.png
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

CLASSES = {"zero": 0, "one": 1, "two": 2, "three": 3}
N_TRAIN, N_TEST = (60, 30, 15, 8), 20


def main() -> None:
    digits = load_digits()
    for (name, digit), n_train in zip(CLASSES.items(), N_TRAIN, strict=True):
        found = digits.images[digits.target == digit]
        for part, images in (("test", found[:N_TEST]), ("train", found[N_TEST:][:n_train])):
            folder = Path("images") / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                grey = np.round(image * 255 / 16).astype(np.uint8)
                Image.fromarray(grey).convert("RGB").save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
