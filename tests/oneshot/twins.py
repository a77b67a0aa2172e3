"""Forward passes in plain NumPy, float64, that return what enters each matrix."""

from __future__ import annotations

import numpy as np


def normed(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v):
    """``[batch, length, heads, size]``; several heads of ``q`` share one of ``k`` and ``v``."""
    share = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, share, axis=2), np.repeat(v, share, axis=2)
    weights = softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
    return np.einsum("bhqk,bkhd->bqhd", weights, v)


def block(w, x, size):
    """A transformer block; returns the result, and the inputs of its matrices by name."""

    def heads(y):
        return y.reshape(*y.shape[:2], -1, size)

    n = normed(x)
    mixed = attention(heads(n @ w["q"]), heads(n @ w["k"]), heads(n @ w["v"])).reshape(x.shape)
    x = x + mixed @ w["o"]
    m = normed(x)
    hidden = np.tanh(m @ w["gate"]) * (m @ w["up"])
    inputs = {"q": n, "k": n, "v": n, "o": mixed, "gate": m, "up": m, "down": hidden}
    return x + hidden @ w["down"], inputs


def gram(x):
    """``X^T X`` over all axes but the last."""
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.T @ x


def patches(x, window, stride=1, dilation=1, groups=1):
    """Of NHWC images, without padding: ``[groups, rows, window * channels of a group]``."""
    rows, (n, height, width, channels) = [], x.shape
    span = (window - 1) * dilation + 1
    for image in range(n):
        for i in range(0, height - span + 1, stride):
            for j in range(0, width - span + 1, stride):
                part = x[image, i : i + span : dilation, j : j + span : dilation]
                rows.append(part.reshape(window * window, groups, channels // groups))
    return np.stack(rows).transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
