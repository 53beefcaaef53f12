"""Pictures with the statistics of photographs: rendered scenes, and one real portrait with known contents.

All are uint8 [H, W, 3], RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bilinear import resize_bilinear
from .packages import package_file


def render_scene(size: int, rng: np.random.Generator) -> np.ndarray:
    """A square landscape: lit sky with clouds, layers of hills, textured ground, shaded balls, sensor noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    horizon = rng.uniform(0.35, 0.6)
    zenith, haze = rng.uniform([60, 90, 150], [130, 150, 240]), rng.uniform(190, 250, 3)
    image: np.ndarray = zenith + (haze - zenith) * np.clip(y / horizon, 0, 1)[:, :, None]
    clouds = np.clip(fractal_noise(size, rng) - rng.uniform(-0.2, 0.5), 0, 1)[:, :, None]
    image += (250 - image) * clouds
    for depth in np.linspace(0.2, 1.0, int(rng.integers(2, 5))):
        ridge = horizon + 0.25 * (depth - 0.4) + 0.08 * fractal_noise(size, rng)[size // 2][None, :]
        soil = haze * (1 - depth) + rng.uniform([20, 40, 10], [120, 130, 80]) * depth
        texture = 1 + 0.25 * depth * fractal_noise(size, rng)
        image = np.where((y > ridge)[:, :, None], soil * texture[:, :, None], image)
    for _ in range(int(rng.integers(1, 5))):
        image = _with_ball(image, x, y, rng)
    image += rng.normal(0, rng.uniform(1, 6), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def fractal_noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [size, size] of mean 0 and deviation 1 whose amplitude falls with frequency, as in natural images."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / frequency**1.3
    noise = np.fft.irfft2(spectrum, (size, size))
    return noise / noise.std()


def _with_ball(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A ball with diffuse and specular light from the upper left."""
    centre_x, centre_y, radius = rng.uniform([0.1, 0.4, 0.05], [0.9, 0.9, 0.2])
    u, v = (x - centre_x) / radius, (y - centre_y) / radius
    height = np.sqrt(np.clip(1 - u * u - v * v, 0, None))
    light = np.clip(-0.5 * u - 0.6 * v + 0.62 * height, 0, 1)[:, :, None]
    colour = rng.uniform(40, 230, 3) * (0.25 + 0.75 * light) + 200 * light**24
    return np.where((u * u + v * v < 1)[:, :, None], colour, image)


@dataclass(frozen=True)
class Portrait:
    """A photograph of one person."""

    image: np.ndarray
    """uint8 [H, W, 3], RGB."""
    face: np.ndarray
    """float [4]: the face as (x0, y0, x1, y1) in pixels."""


PORTRAIT_PACKAGE = ("matplotlib", "matplotlib")
_FACE = (170.0, 138.0, 360.0, 345.0)
"""The face of Grace Hopper in the 512 x 600 picture, by hand: hairline to chin, ear to ear."""


def portrait(rng: np.random.Generator) -> Portrait:
    """Grace Hopper (US Navy, public domain, from matplotlib's sample data), cropped, mirrored and relit at random.

    The whole face stays inside the crop.
    """
    from PIL import Image

    path = package_file("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", install="pip install matplotlib")
    picture: np.ndarray = np.asarray(Image.open(path).convert("RGB"))
    height: int = picture.shape[0]
    width: int = picture.shape[1]
    x0, y0, x1, y1 = _FACE
    left, top = int(rng.uniform(0, x0 - 40)), int(rng.uniform(0, y0 - 40))
    right, bottom = int(rng.uniform(x1 + 40, width)), int(rng.uniform(y1 + 60, height))
    crop: np.ndarray = picture[top:bottom, left:right]
    face = np.array([x0 - left, y0 - top, x1 - left, y1 - top])
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
        face[[0, 2]] = crop.shape[1] - face[[2, 0]]
    scale = rng.uniform(0.5, 1.2)
    resized = resize_bilinear(crop, round((right - left) * scale), round((bottom - top) * scale))
    relit = 255 * (resized / 255) ** rng.uniform(0.7, 1.5)
    noisy = relit + rng.normal(0, rng.uniform(0, 8), relit.shape)
    return Portrait(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), face * scale)
