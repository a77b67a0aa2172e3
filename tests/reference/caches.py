"""Caches in NumPy: lists of entries, one head and one token at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Entry:
    """A token in the cache of a head; the key is not turned."""

    position: int
    key: np.ndarray
    value: np.ndarray
    score: float = 0.0


def softmax(x):
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def turned(x, place, base=10_000.0):
    """Rotary embedding by complex numbers."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * place * base ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def weights(query, entries, places, now, read=None):
    """Attention of one query; ``read``: which entries, all if None."""
    query = turned(query, now)
    keys = np.array([turned(e.key, p) for e, p in zip(entries, places, strict=True)])
    logits = keys @ query / np.sqrt(len(query))
    if read is not None:
        best = read(query, keys)
        logits[[i for i in range(len(entries)) if i not in best]] = -np.inf
    return softmax(logits)


def local(entries, budget):
    return entries[-budget:]


def strided(entries, budget, stride, recent):
    window, older = entries[-recent:], entries[:-recent]
    room = budget - len(window)
    on = [e for e in older if (e.position + 1) % stride == 0][-room:]
    off = [e for e in older if (e.position + 1) % stride]
    rest = off[len(off) - (room - len(on)) :]
    return sorted(on + rest, key=lambda e: e.position) + window


def streaming_llm(entries, budget, sinks):
    return entries[:sinks] + entries[len(entries) - (budget - sinks) :]


def heaviest(entries, budget, recent):
    """H2O and SnapKV: those of highest score, and the last ones."""
    older, window = entries[: len(entries) - recent], entries[len(entries) - recent :]
    order = sorted(range(len(older)), key=lambda i: -older[i].score)[: budget - recent]
    return [older[i] for i in sorted(order)] + window


def pooled(votes, kernel, pool):
    wing = kernel // 2
    wide = np.concatenate([np.zeros(wing), votes, np.zeros(wing)])
    parts = [wide[i : i + kernel] for i in range(len(votes))]
    return np.array([getattr(np, pool)(x) for x in parts])


def run(kind, query, key, value, prompt, budget, uniform=None, **settings):
    """One layer reads a text: what it gives, and the positions that each head has, per step.

    Args:
      kind: of the policy.
      query: ``[length, heads, size]``, and ``key``, ``value`` ``[length, kv_heads, size]``.
      prompt: tokens that are read at once.
      budget: entries per head; None: all.
      uniform: draws of CaM, ``(time) -> [kv_heads]``.
      settings: of the policy.

    Returns:
      outputs ``[length, heads, size]``, and for every step after the prompt a list per head.
    """
    length, heads, _ = query.shape
    kv_heads = key.shape[1]
    group, out, kept = heads // kv_heads, np.zeros_like(query), []
    inside = kind in ("streaming_llm", "cam")
    caches = [[] for _ in range(kv_heads)]

    def attention(time, entries, h, reads=True):
        places = range(len(entries)) if inside else [e.position for e in entries]
        now = len(entries) - 1 if inside else time
        rows = []
        for head in range(h * group, (h + 1) * group):
            read = settings["read"](head) if kind == "double_sparsity" and reads else None
            rows.append(weights(query[time, head], entries, places, now, read))
            out[time, head] = rows[-1] @ np.array([e.value for e in entries])
        return np.array(rows)

    def stays(entries, mean):
        if budget is None or len(entries) <= budget:
            return entries
        if kind == "local":
            return local(entries, budget)
        if kind == "strided":
            return strided(entries, budget, **settings)
        if kind in ("streaming_llm", "cam"):
            return streaming_llm(entries, budget, settings["sinks"])
        if kind == "h2o":
            return heaviest(entries, budget, settings["recent"])
        if kind == "snapkv":
            return heaviest(entries, budget, settings["window"])
        order = sorted(range(len(entries)), key=lambda i: -mean[i])[:budget]
        return [entries[i] for i in sorted(order)]

    if prompt:
        for h in range(kv_heads):
            caches[h] = [Entry(t, key[t, h], value[t, h].copy()) for t in range(prompt)]
        rows = [
            [attention(t, caches[h][: t + 1], h) for t in range(prompt)] for h in range(kv_heads)
        ]
        for h, entries in enumerate(caches):
            if kind == "snapkv":
                window = settings["window"]
                votes = np.zeros(prompt - window)
                for t in range(prompt - window, prompt):
                    votes += rows[h][t].sum(0)[: prompt - window]
                votes = pooled(votes, settings["kernel"], settings["pool"])
                for i, e in enumerate(entries):
                    e.score = votes[i] if i < len(votes) else -1.0
            else:
                for t in range(prompt):
                    for e, w in zip(entries, rows[h][t].sum(0), strict=False):
                        e.score += w
        mean = np.concatenate([x[-1] for x in rows]).mean(0)
        caches = [stays(entries, mean) for entries in caches]
        kept.append([[e.position for e in entries] for entries in caches])
    for time in range(prompt, length):
        for h in range(kv_heads):
            new = Entry(time, key[time, h], value[time, h].copy())
            new.score = -1.0 if kind == "snapkv" else 0.0
            caches[h].append(new)
        rows = [attention(time, caches[h], h) for h in range(kv_heads)]
        # The heads of TOVA hold the same tokens.
        same = len({len(x[0]) for x in rows}) == 1
        mean = np.concatenate(rows).mean(0) if same else None
        for h, entries in enumerate(caches):
            if kind in ("h2o", "cam"):
                for e, w in zip(entries, rows[h].sum(0), strict=True):
                    e.score += w
            caches[h] = stays(entries, mean)
            if kind == "cam" and len(caches[h]) < len(entries):
                merged, first = settings["merged"], settings["sinks"]
                gone, follow = entries[first], entries[first + 1 : first + 1 + merged]
                chance = gone.score / np.mean([e.score for e in follow])
                if uniform(time)[h] < min(chance, 1):
                    for e in follow:
                        e.value += gone.value / merged
        kept.append([[e.position for e in entries] for entries in caches])
    return out, kept
