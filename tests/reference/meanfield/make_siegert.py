"""Rates, CVs and transfer functions of LIF neurons with 30 digits and more (needs mpmath).

Writes `siegert.csv`, `siegert_cv.csv` and `lif_transfer.csv` here, and prints the Chebyshev
coefficients of `neurofield/meanfield/_erfcx.py`. All by other means than the package's: adaptive
quadrature of erfcx, and Hermite functions by confluent hypergeometric series.
"""

import csv
from pathlib import Path

from mpmath import mp, mpc, mpf

HERE = Path(__file__).parent
# tau, threshold, reset, refractory, synaptic_tau (s, mV)
CELLS = [(0.02, 20, 10, 0.002, 0), (0.01, 15, 0, 0.002, 0.0005), (0.013, 12, 7, 0, 0.004)]


def erfcx(y):
    """exp(y^2) erfc(y)."""
    if y < 20:
        return mp.exp(y * y) * mp.erfc(y)
    return 1 / (mp.sqrt(mp.pi) * (y + rest(y)))


def rest(x):
    """1 / (sqrt(pi) erfcx(x)) - x."""
    if x < 20:
        return 1 / (mp.sqrt(mp.pi) * erfcx(x)) - x
    value = mpf(0)
    for n in range(100, 0, -1):
        value = mpf(n) / 2 / (x + value)
    return value


def limits(mean, sd, cell):
    tau, threshold, reset, _, synaptic_tau = cell
    shift = mp.sqrt(2) * abs(mp.zeta(mpf(1) / 2)) / 2 * mp.sqrt(mpf(synaptic_tau) / mpf(tau))
    return (reset - mpf(mean)) / mpf(sd) + shift, (threshold - mpf(mean)) / mpf(sd) + shift


def between(low, high, points):
    inner = [mpf(p) for p in points if low < p < high]
    return sorted({low, *inner, high})


def rate(mean, sd, cell):
    low, high = limits(mean, sd, cell)
    points = [-1e5, -1e4, -1e3, -100, -10, -2, 0, 2, 4, 6, high - 10 / (1 + abs(high))]
    integral = mp.quad(lambda y: erfcx(-y), between(low, high, points))
    return 1 / (mpf(cell[3]) + mpf(cell[0]) * mp.sqrt(mp.pi) * integral)


def cv(mean, sd, cell):
    """Brunel's double integral by parts: two single ones."""
    low, high = limits(mean, sd, cell)

    def inner(y):
        return mp.exp(-y * y) * erfcx(-y) ** 2

    def growth(x):
        return mp.sqrt(mp.pi) / 2 * mp.erfi(x)

    points = [-5, -1, 0, 1, 2, 4, 6]
    start = mp.quad(inner, between(low - 12, low, [low - 4, low - 1, low - 0.2]))
    whole = start + mp.quad(inner, between(low, high, points))
    integral = growth(high) * whole - growth(low) * start
    integral -= mp.quad(lambda x: growth(x) * inner(x), between(low, high, points))
    return mp.sqrt(2 * mp.pi * integral) * rate(mean, sd, cell) * mpf(cell[0])


def moment(y, s):
    """Integral over t > 0 of t^(s - 1) exp(-t^2 + 2 y t), a Hermite function of -y."""
    half = mpf(1) / 2
    even = mp.gamma(s / 2) * mp.hyp1f1(s / 2, half, y * y)
    return (even + 2 * y * mp.gamma((s + 1) / 2) * mp.hyp1f1((s + 1) / 2, 3 * half, y * y)) / 2


def transfer(frequency, mean, sd, cell, nu):
    """By mean (Hz/mV) and by variance (Hz/mV^2): Brunel & Hakim (1999), Lindner &
    Schimansky-Geier (2001), with psi(y) = moment(y, i omega tau)."""
    low, high = limits(mean, sd, cell)
    tau, refractory = mpf(cell[0]), mpf(cell[3])
    order = mpc(0, 2 * mp.pi * mpf(frequency) * tau)
    phase = mp.exp(-order * refractory / tau)
    below = moment(high, order) - phase * moment(low, order)
    first = 2 * (moment(high, order + 1) - moment(low, order + 1))
    second = 4 * (moment(high, order + 2) - moment(low, order + 2))
    by_mean = nu / mpf(sd) / (1 + order) * first / below
    return by_mean, nu / mpf(sd) ** 2 / (2 + order) / 2 * second / below


def chebyshev(count=28, num=60):
    scale = mpf("2.5")
    angles = [mp.pi * (i + mpf(1) / 2) / num for i in range(num)]
    points = [scale * (1 + mp.cos(a)) / (1 - mp.cos(a)) for a in angles]
    values = [(x + scale) * rest(x) for x in points]
    for m in range(count):
        total = sum(v * mp.cos(m * a) for v, a in zip(values, angles, strict=True))
        print(mp.nstr(total * (2 if m else 1) / num, 17))


def write(name, header, rows):
    with open(HERE / name, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *rows])


def main():
    mp.dps = 30
    chebyshev()
    cells = ["tau", "threshold", "reset", "refractory", "synaptic_tau"]
    sds = (0.001, 0.1, 0.5, 2, 8, 1000)
    offsets = (-300, -12, -4, -1, 0, 0.1, 1, 10, 500)
    rows, cvs = [], []
    for cell in CELLS:
        for sd in sds:
            for offset in offsets:
                mean = cell[1] + offset
                if limits(mean, sd, cell)[1] > 26:
                    continue  # below 1e-300 hertz
                nu = rate(mean, sd, cell)
                rows.append([mean, sd, *cell, mp.nstr(nu, 20)])
                low, high = limits(mean, sd, cell)
                if -20 < low < high < 8:
                    mp.dps = int(30 + low**2)  # that the parts cancel
                    found = cv(mean, sd, cell)
                    mp.dps = 30
                    cvs.append([mean, sd, *cell, mp.nstr(found, 17)])
    write("siegert.csv", ["mean", "sd", *cells, "rate"], rows)
    write("siegert_cv.csv", ["mean", "sd", *cells, "cv"], cvs)
    rows = []
    names = ["mean_re", "mean_im", "variance_re", "variance_im"]
    for cell in CELLS:
        for offset, sd in ((-12, 3), (-12, 8), (-3, 2), (0, 5), (2, 1), (30, 5), (-20, 60)):
            nu = rate(cell[1] + offset, sd, cell)
            low, _ = limits(cell[1] + offset, sd, cell)
            for frequency in (1e-3, 1, 7, 12, 40, 100, 330, 1000):
                mp.dps = int(60 + low**2 + 9 * frequency * cell[0])  # that the series cancels
                both = transfer(frequency, cell[1] + offset, sd, cell, nu)
                mp.dps = 30
                parts = [mp.nstr(x, 17) for z in both for x in (z.real, z.imag)]
                rows.append([frequency, cell[1] + offset, sd, *cell, *parts])
    write("lif_transfer.csv", ["frequency", "mean", "sd", *cells, *names], rows)


if __name__ == "__main__":
    main()
