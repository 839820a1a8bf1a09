// Interactive figures: inline SVG in the page, moved by controls beside it. No library, no network.
// A figure is an element with data-nnopt-figure="name"; its script registers nnoptFigures.register(name, start),
// and start(element) is called once for each such element. Without JavaScript the SVG stays as it was drawn.
window.nnoptFigures = (() => {
  const starters = new Map();
  let ready = false;

  function startAll(name) {
    for (const element of document.querySelectorAll(`[data-nnopt-figure="${name}"]`)) {
      if (element.dataset.started) continue;
      element.dataset.started = "yes";
      starters.get(name)(element);
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    ready = true;
    for (const name of starters.keys()) startAll(name);
  });

  return {
    register(name, start) {
      starters.set(name, start);
      if (ready) startAll(name);
    },
  };
})();
