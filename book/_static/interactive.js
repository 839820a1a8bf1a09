// The figures that move. Each one repeats a drawing of nnopt/plots/interactive.py for other settings;
// tests/book/test_site.py compares the numbers in data-nnopt-values with Python's.
(() => {
  const minus = (text) => text.replaceAll("-", "−");

  function sliders(root, redraw) {
    const controls = root.querySelector(".nnopt-controls");
    const inputs = [...controls.querySelectorAll("input")];
    const update = () => {
      const values = {};
      for (const input of inputs) {
        values[input.name] = Number(input.value);
        input.parentElement.querySelector("output").textContent = input.value;
      }
      root.dataset.nnoptValues = JSON.stringify(redraw(values));
    };
    for (const input of inputs) input.addEventListener("input", update);
    controls.hidden = false;
    update();
  }

  nnoptFigures.register("rolling-point", (root) => {
    const { curvature, start, num_steps, reach, top } = JSON.parse(root.dataset.nnoptSettings);
    const path = root.querySelector(".nnopt-path");
    const dots = root.querySelector(".nnopt-dots");
    const x = (position) => 320 + (position / reach) * 290;
    const y = (position) => 210 - Math.min((position / reach) ** 2, 1.2) * 190;
    sliders(root, ({ lr }) => {
      const positions = [start];
      for (let t = 0; t < num_steps; t += 1) positions.push((1 - lr * curvature) * positions[t]);
      const seen = positions.filter((position) => Math.abs(position) <= reach);
      path.setAttribute("points", seen.map((p) => `${x(p).toFixed(1)},${y(p).toFixed(1)}`).join(" "));
      dots.innerHTML = seen
        .map((p) => `<circle cx="${x(p).toFixed(1)}" cy="${y(p).toFixed(1)}" r="4.5" fill="var(--nnopt-c1)"/>`)
        .join("");
      root.querySelector(".nnopt-rate").setAttribute("cx", 40 + 560 * Math.min(lr / top, 1));
      const factor = 1 - lr * curvature;
      let fate = factor >= 0 ? "slides in" : "jumps in";
      if (Math.abs(factor) > 1) fate = "flies out";
      if (Math.abs(Math.abs(factor) - 1) < 1e-9) fate = factor > 0 ? "stays" : "jumps for ever";
      root.querySelector(".nnopt-readout").textContent = minus(`1 − ηλ = ${factor.toFixed(2)}: ${fate}`);
      return positions;
    });
  });

  // real and imaginary part of both roots of r² − (1 + β − ηλ) r + β
  function rootsOf(scaled, momentum) {
    const total = 1 + momentum - scaled;
    const discriminant = total * total - 4 * momentum;
    const half = Math.sqrt(Math.abs(discriminant)) / 2;
    return discriminant < 0
      ? [[total / 2, half], [total / 2, -half]]
      : [[total / 2 + half, 0], [total / 2 - half, 0]];
  }

  nnoptFigures.register("valley-and-roots", (root) => {
    const { curvatures, start, num_steps } = JSON.parse(root.dataset.nnoptSettings);
    sliders(root, ({ lr, momentum }) => {
      const paths = curvatures.map((curvature, axis) => {
        const positions = [start[axis]];
        let buffer = 0;
        for (let t = 0; t < num_steps; t += 1) {
          buffer = momentum * buffer + curvature * positions[t];
          positions.push(positions[t] - lr * buffer);
        }
        return positions;
      });
      const inside = [];
      for (let t = 0; t <= num_steps; t += 1) {
        const [along, across] = [paths[0][t], paths[1][t]];
        if (Math.abs(along) > 1.1 || Math.abs(across) > 0.85) break;
        inside.push(`${(160 + 140 * along).toFixed(1)},${(130 - 140 * across).toFixed(1)}`);
      }
      root.querySelector(".nnopt-path").setAttribute("points", inside.join(" "));
      root.querySelector(".nnopt-floor").setAttribute("r", (110 * Math.sqrt(momentum)).toFixed(1));
      const roots = curvatures.map((curvature) => rootsOf(lr * curvature, momentum));
      const place = ([re, im]) => [480 + 110 * Math.min(Math.max(re, -1.3), 1.3), 130 - 110 * im];
      root.querySelector(".nnopt-roots").innerHTML =
        roots[0].map(place).map(([x, y]) =>
          `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="6" fill="var(--nnopt-c0)"/>`).join("") +
        roots[1].map(place).map(([x, y]) =>
          `<rect x="${(x - 5).toFixed(1)}" y="${(y - 5).toFixed(1)}" width="10" height="10" fill="var(--nnopt-c1)"/>`).join("");
      const rate = Math.max(...roots.flat().map(([re, im]) => Math.hypot(re, im)));
      let fate = `${rate.toFixed(3)}: one hundredth after ${Math.ceil(Math.log(0.01) / Math.log(rate))} steps`;
      if (rate > 1) fate = `${rate.toFixed(3)}: flies out`;
      if (Math.abs(rate - 1) < 1e-9) fate = "1.000: never arrives";
      root.querySelector(".nnopt-readout").textContent = `largest root ${fate}`;
      return [...paths.flat(), ...roots.flat(2)];
    });
  });

  nnoptFigures.register("noise-and-decay", (root) => {
    const { curvatures, noise, num_steps, lowest } = JSON.parse(root.dataset.nnoptSettings);
    const x = (step) => 60 + (540 * step) / num_steps;
    const y = (loss) => 110 + 140 * Math.min(Math.max(Math.log10(loss) / lowest, 0), 1);
    const line = (values, height) => values.map((v, step) => `${x(step).toFixed(1)},${height(v).toFixed(1)}`).join(" ");
    const expected = (rates) => {
      let squares = curvatures.map(() => 1);
      const loss = () => curvatures.reduce((sum, c, i) => sum + c * squares[i], 0) / 2;
      const losses = [loss()];
      for (const rate of rates) {
        squares = squares.map((s, i) => (1 - rate * curvatures[i]) ** 2 * s + rate ** 2 * noise[i]);
        losses.push(loss());
      }
      return losses;
    };
    sliders(root, ({ lr, decay }) => {
      const rates = [];
      for (let step = 0; step < num_steps; step += 1) {
        rates.push(lr * (decay > 0 ? Math.min(1, (num_steps - step) / (decay * num_steps)) : 1));
      }
      const losses = expected(rates);
      const flat = expected(rates.map(() => lr));
      root.querySelector(".nnopt-rates").setAttribute("points", line(rates, (rate) => 80 - (60 * rate) / 1.9));
      root.querySelector(".nnopt-path").setAttribute("points", line(losses, y));
      root.querySelector(".nnopt-flat").setAttribute("points", line(flat, y));
      root.querySelector(".nnopt-readout").textContent =
        `at the end ${losses[num_steps].toFixed(4)}, without decay ${flat[num_steps].toFixed(4)}`;
      return [...losses, ...flat];
    });
  });

  // Lanczos's approximation of log Γ
  function logGamma(z) {
    const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155,
      1.208650973866179e-3, -5.395239384953e-6];
    const t = z + 5.5 - (z + 0.5) * Math.log(z + 5.5);
    return -t + Math.log((2.5066282746310005 * c.reduce((sum, ci, i) => sum + ci / (z + 1 + i), 1.000000000190015)) / z);
  }

  // normal distribution function by its power series and, in the tails, its continued fraction
  function normal(z) {
    const a = Math.abs(z);
    const density = Math.exp((-a * a) / 2) / Math.sqrt(2 * Math.PI);
    let upper;
    if (a < 4) {
      let term = a;
      let sum = a;
      for (let k = 1; k < 100; k += 1) {
        term *= (a * a) / (2 * k + 1);
        sum += term;
      }
      upper = 0.5 - density * sum;
    } else {
      let tail = a;
      for (let k = 40; k > 0; k -= 1) tail = a + k / tail;
      upper = density / tail;
    }
    return z > 0 ? 1 - upper : upper;
  }

  // P(T > critical) for noncentral t: average the normal tail over the law of the spread (Simpson's rule)
  function holdProbability(distance, degrees, critical) {
    const logScale = Math.log(2) + (degrees / 2) * Math.log(degrees / 2) - logGamma(degrees / 2);
    const weight = (s) =>
      s <= 0 ? 0 : Math.exp(logScale + (degrees - 1) * Math.log(s) - (degrees * s * s) / 2) * normal(distance - critical * s);
    const n = 600;
    const h = (1 + 12 / Math.sqrt(2 * degrees)) / n;
    let sum = weight(n * h);
    for (let k = 1; k < n; k += 1) sum += (k % 2 ? 4 : 2) * weight(k * h);
    return (sum * h) / 3;
  }

  nnoptFigures.register("will-it-hold", (root) => {
    const { critical, pairs } = JSON.parse(root.dataset.nnoptSettings);
    const rows = root.querySelector(".nnopt-rows");
    const limit = root.querySelector(".nnopt-limit");
    const x = (value) => 40 + 560 * Math.min(Math.max((value + 1.5) / 7, 0), 1);
    sliders(root, ({ effect, num_seeds, margin }) => {
      const root_n = Math.sqrt(num_seeds);
      const degrees = num_seeds - 1;
      const t = critical[num_seeds - 2];
      let count = 0;
      rows.innerHTML = pairs
        .map(([first, second], place) => {
          const mean = effect + first / root_n;
          const spread = Math.max(1 - 2 / (9 * degrees) + second * Math.sqrt(2 / (9 * degrees)), 0) ** 1.5;
          const half = (t * spread) / root_n;
          const held = mean - half > margin;
          count += held;
          const y = (10 + 2.4 * place).toFixed(1);
          const color = held ? "var(--nnopt-c0)" : "var(--nnopt-c1)";
          return `<line x1="${x(mean - half).toFixed(1)}" x2="${x(mean + half).toFixed(1)}" y1="${y}" y2="${y}" stroke="${color}" stroke-width="1.2"/>`;
        })
        .join("");
      for (const end of ["x1", "x2"]) limit.setAttribute(end, x(margin).toFixed(1));
      const chance = holdProbability((effect - margin) * root_n, degrees, t);
      root.querySelector(".nnopt-readout").textContent =
        `${count} of 100 re-runs hold here; by the law ${(100 * chance).toFixed(1)} %`;
      return [chance, count];
    });
  });
})();
