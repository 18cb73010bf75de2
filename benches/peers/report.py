"""What was measured, as a table in Markdown, as JSON, and as a plot in SVG."""
import math, platform, re, subprocess
from html import escape
from pathlib import Path
from statistics import median

from .machine import vmlan


class Result:
    """A row with all that was measured: for each candidate and round a value, or in words why there is none."""

    def __init__(self, row):
        self.row, self.rounds = row, {}

    def add(self, name, number, value):
        self.rounds.setdefault(name, {})[number] = value

    def values(self, name):
        """Those of clean rounds, if there are any; and whether there are."""
        values = [value for value in self.rounds.get(name, {}).values() if not isinstance(value, str)]
        clean = [value.value for value in values if value.clean]
        return clean or [value.value for value in values], bool(clean)

    def missing(self, name):
        """Why there is no value at all."""
        return next((value for value in self.rounds.get(name, {}).values() if isinstance(value, str)), "–")

    def ratios(self, name):
        """How far vmlan is ahead of another, round by round, in clean rounds if there are any: above 1 where it is."""
        mine, theirs = self.rounds.get("vmlan", {}), self.rounds.get(name, {})
        pairs = [(mine[number], theirs[number]) for number in mine if number in theirs]
        pairs = [(a, b) for a, b in pairs if not isinstance(a, str) and not isinstance(b, str)]
        pairs = [(a.value, b.value) for a, b in pairs if a.clean and b.clean] or [(a.value, b.value) for a, b in pairs]
        if self.row.absolute or name == "vmlan":
            return []
        return [b / a if self.row.less else a / b for a, b in pairs]


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(results, names):
    others = [name for name in names if name != "vmlan"] if "vmlan" in names else []
    heads = ["", *names, *(f"vmlan / {name}" for name in others)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for result in results:
        row = result.row
        cells = [f"{row.title}, {row.unit}" if row.unit else row.title]
        for name in names:
            values, clean = result.values(name)
            busy = "" if clean else " (busy machine)"
            cells.append(figure(median(values)) + busy if values else result.missing(name))
        for name in others:
            ratios = result.ratios(name)
            cells.append(f"**{median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def document(results, names, options):
    """The same, with every round, for programs."""
    return {"machine": machine(), "options": options, "rows": [one(result, names) for result in results]}


def one(result, names):
    row = result.row
    found = {"key": row.key, "title": row.title, "unit": row.unit, "less_is_better": row.less, "candidates": {}, "ratios": {}}
    for name in names:
        rounds = result.rounds.get(name)
        if rounds is None:
            continue
        values, clean = result.values(name)
        told = {"median": median(values), "clean": clean} if values else {"missing": result.missing(name)}
        told["rounds"] = [{"round": number, "missing": value} if isinstance(value, str) else
                          {"round": number, "value": value.value, "clean": value.clean}
                          for number, value in sorted(rounds.items())]
        found["candidates"][name] = told
        ratios = result.ratios(name)
        if ratios:
            found["ratios"][name] = {"median": median(ratios), "min": min(ratios), "max": max(ratios), "rounds": ratios}
    return found


def machine():
    """What it was measured on, and what with."""
    def first(pattern, *command):
        try:
            said = subprocess.run(command, capture_output=True, text=True)
            return re.search(pattern, said.stdout + said.stderr).group(0)
        except (OSError, AttributeError):
            return None

    processor = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"processor": processor.group(1) if processor else platform.machine(), "kernel": platform.release(),
            "vmlan": first(r"\d+\.\d+\S*", vmlan(), "--version"),
            "ovs": first(r"\d+\.\d+\.\d+", "ovs-vsctl", "--version"),
            "dpdk": first(r"\d+\.\d+\.\d+", "dpkg-query", "-W", "dpdk-dev")}


STEP, LEFT, WIDTH, TOP = 26, 330, 520, 70
COLOURS = ("#1f6fb4", "#d1731c", "#3d8b3d")


def plot(results, names):
    """Ratios on a logarithmic scale: a dot for the median, a line from the smallest to the largest."""
    others = [name for name in names if name != "vmlan"]
    shown = [result for result in results if any(result.ratios(name) for name in others)]
    every = [ratio for result in shown for name in others for ratio in result.ratios(name)] or [1]
    low, high = min(0.5, *every), max(2, *every)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
             if low / 1.2 <= tick <= high * 1.2]
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    x = lambda ratio: LEFT + WIDTH * math.log(ratio / low) / math.log(high / low)
    bottom = TOP + STEP * max(1, len(shown))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 40} {bottom + 40}" '
             'font-family="sans-serif" font-size="13">',
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="16" y="26" font-size="16">How far vmlan is ahead (above 1) or behind</text>']
    for place, name in enumerate(others):
        colour, at = COLOURS[place % len(COLOURS)], 22 + 110 * place
        parts.append(f'<circle cx="{at}" cy="46" r="5" fill="{colour}"/><text x="{at + 11}" y="50">of {escape(name)}</text>')
    for tick in ticks:
        strong = ' stroke-width="2"' if tick == 1 else ""
        parts.append(f'<line x1="{x(tick):.1f}" y1="{TOP - 6}" x2="{x(tick):.1f}" y2="{bottom}" '
                     f'stroke="{"#444" if tick == 1 else "#ddd"}"{strong}/>'
                     f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for number, result in enumerate(shown):
        y = TOP + STEP * number + STEP / 2
        parts.append(f'<text x="{LEFT - 14}" y="{y + 4:.1f}" text-anchor="end">{escape(result.row.title)}</text>')
        for place, name in enumerate(others):
            ratios = result.ratios(name)
            if not ratios:
                continue
            colour, level = COLOURS[place % len(COLOURS)], y + 6 * place - 3 * (len(others) - 1)
            parts.append(f'<line x1="{x(min(ratios)):.1f}" y1="{level:.1f}" x2="{x(max(ratios)):.1f}" y2="{level:.1f}" '
                         f'stroke="{colour}" stroke-width="2"/>'
                         f'<circle cx="{x(median(ratios)):.1f}" cy="{level:.1f}" r="4" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
