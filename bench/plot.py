"""Small line charts as SVG: no library, readable in light and dark, logarithmic in x."""

import html
import math

COLOURS = ("#2f6fdb", "#d9722b", "#2f9e5b", "#a04bc4")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 80, 20, 50, 60


def _nice(most):
    """A round upper bound and the distance of its five or so lines."""
    step = 10 ** math.floor(math.log10(most))
    for factor in (0.1, 0.2, 0.5, 1, 2):
        if most / (step * factor) <= 6:
            step *= factor
            break
    return math.ceil(most / step) * step, step


def line_chart(title, x_name, y_name, series):
    """`series` maps names to lists of (x, y); x above 0."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top, step = _nice(max(y for points in series.values() for _, y in points))
    span = math.log(xs[-1] / xs[0]) or 1

    def at(x, y):
        return (LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / span, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
           '<style>text{fill:#222}line{stroke:#8886}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>',
           f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="16">{html.escape(title)}</text>']
    for i in range(round(top / step) + 1):
        _, y = at(xs[0], i * step)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                   f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{i * step:,.0f}</text>')
    for x in xs:
        place, _ = at(x, 0)
        out.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x:,}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(x_name)}</text>'
               f'<text x="18" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
               f'transform="rotate(-90 18 {(TOP + HEIGHT - BOTTOM) / 2})">{html.escape(y_name)}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in sorted(points)))
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{path}"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in (at(*point) for point in points)]
        out.append(f'<rect x="{LEFT + 10 + 120 * i}" y="34" width="14" height="5" fill="{colour}"/>'
                   f'<text x="{LEFT + 30 + 120 * i}" y="41">{html.escape(name)}</text>')
    return "\n".join(out) + "\n</svg>\n"
