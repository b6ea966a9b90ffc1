"""Mel-frequency cepstral coefficients as in Light-ASD's training: the defaults of python_speech_features."""

from __future__ import annotations

from functools import cache

import numpy as np

from ...backends.speech_audio import SPEECH_RATE_HZ

STEP = SPEECH_RATE_HZ // 100  # samples from one row to the next
LENGTH = SPEECH_RATE_HZ // 40  # samples in the window of a row
N_COEFFICIENTS = 13
_FFT, _FILTERS, _LIFTER, _PREEMPHASIS = 512, 26, 22, 0.97
_TINY = np.finfo(np.float64).eps


def mfcc(samples: np.ndarray, first: int = 0, rows: int | None = None) -> np.ndarray:
    """Return 13 coefficients for each hundredth of a second; the first is the log of the energy.

    Args:
        samples: of shape (samples,), mono, 16 kHz, on the scale of 16-bit integers.
        first: index of the first row to return.
        rows: number of rows; default: to the end of the samples. Rows past the end are computed from silence.

    Returns:
        float32 of shape (rows, 13).
    """
    if rows is None:
        rows = 1 + max(-(-(len(samples) - LENGTH) // STEP), 0) - first
    begin, end = first * STEP, first * STEP + (rows - 1) * STEP + LENGTH
    part = np.zeros(end - begin + 1)  # including the sample before the first
    given = np.asarray(samples[max(begin - 1, 0) : end], np.float64)
    offset = 0 if begin else 1
    part[offset : offset + len(given)] = given
    flat = part[1:] - _PREEMPHASIS * part[:-1]
    flat[max(len(samples) - begin, 0) :] = 0  # silence past the end, not an echo of the last sample
    pieces = np.lib.stride_tricks.sliding_window_view(flat, LENGTH)[::STEP][:rows]
    power = np.abs(np.fft.rfft(pieces, _FFT)) ** 2 / _FFT
    energy = power.sum(1)
    bands = power @ _filters().T
    bands, energy = np.where(bands == 0, _TINY, bands), np.where(energy == 0, _TINY, energy)
    found = np.log(bands) @ _cosines().T
    found *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(N_COEFFICIENTS) / _LIFTER)
    found[:, 0] = np.log(energy)
    return found.astype(np.float32)


@cache
def _filters() -> np.ndarray:
    """Return triangular filters over the spectrum, evenly spaced in mel, of shape (filters, bins)."""
    top = 2595 * np.log10(1 + SPEECH_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    bins = np.floor((_FFT + 1) * edges_hz / SPEECH_RATE_HZ)
    places = np.arange(_FFT // 2 + 1)
    low, middle, high = (bins[i : i + _FILTERS, None] for i in range(3))
    rising = (places >= low) & (places < middle)
    falling = (places >= middle) & (places < high)
    up, down = (places - low) / np.maximum(middle - low, 1), (high - places) / np.maximum(high - middle, 1)
    return np.where(rising, up, 0) + np.where(falling, down, 0)


@cache
def _cosines() -> np.ndarray:
    """Return the matrix of the orthonormal cosine transform, of shape (coefficients, filters)."""
    n = np.arange(_FILTERS)
    waves = np.cos(np.pi * np.arange(N_COEFFICIENTS)[:, None] * (2 * n + 1) / (2 * _FILTERS))
    waves *= np.sqrt(2 / _FILTERS)
    waves[0] /= np.sqrt(2)
    return waves
