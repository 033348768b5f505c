"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const viewer = document.getElementById("viewer");
  const wipe = document.getElementById("wipe");
  const TILE = 32, FOLD = 255, FOLD_COLOUR = [255, 230, 0], EDGE_COLOUR = [255, 160, 0];
  const registered = "after" in data.planes[0].layers;

  // codes 1 to 254 of a map run along its colours
  const tables = {};
  for (const [name, map] of Object.entries(data.maps)) {
    const stops = map.colours.map(c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)));
    tables[name] = Array.from({ length: 256 }, (_, code) => {
      if (code === FOLD) return FOLD_COLOUR;
      const place = Math.max(0, code - 1) / 253 * (stops.length - 1);
      const i = Math.min(Math.floor(place), stops.length - 2);
      return stops[i].map((from, k) => from + (place - i) * (stops[i + 1][k] - from));
    });
  }

  // the page has loaded once these have
  for (const plane of data.planes) {
    plane.images = {};
    for (const [name, address] of Object.entries(plane.layers)) {
      plane.images[name] = new Image();
      plane.images[name].src = address;
    }
  }

  // the grey values of one slice, one number a pixel
  function pixels(plane, layer, slice) {
    const { width, height, positions } = plane;
    const strip = plane.images[layer];
    const context = plane.scratch.getContext("2d", { willReadFrequently: true });
    const rows = strip.height / positions.length;
    context.imageSmoothingEnabled = false;
    context.drawImage(strip, 0, slice * rows, strip.width, rows, 0, 0, width, height);
    const rgba = context.getImageData(0, 0, width, height).data;
    return Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]);
  }

  // where the gradient, over two pixels each way, is steep and steepest across the edge
  function edges(grey, width) {
    const steps = [1, width], reach = 2, least = 36;
    const slopes = steps.map(step => Array.from(grey, (_, i) =>
      Math.abs((grey[i + reach * step] ?? grey[i]) - (grey[i - reach * step] ?? grey[i]))));
    const steep = slopes[0].map((slope, i) => Math.hypot(slope, slopes[1][i]));
    return steep.map((here, i) => {
      const step = slopes[0][i] > slopes[1][i] ? 1 : width, x = i % width;
      return here > least && here >= steep[i - step] && here > steep[i + step] && x >= reach && x < width - reach;
    });
  }

  function draw(plane) {
    const { width, height, canvas } = plane;
    const slice = Number(plane.slider.value);
    const mode = viewer.querySelector("input[name=show]:checked").value;
    const map = tables[mode];
    const wiped = registered && !map && mode !== "fixed";
    const cut = registered ? Math.round(wipe.value / 100 * width) : width;
    const fixed = pixels(plane, "fixed", slice), before = pixels(plane, "before", slice);
    const after = registered ? pixels(plane, "after", slice) : before;
    const codes = map && pixels(plane, mode, slice);
    const outline = mode === "edges" && edges(fixed, width);
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let i = 0; i < fixed.length; i++) {
      const x = i % width, y = (i - x) / width;
      const f = fixed[i], m = x < cut ? before[i] : after[i];
      let colour = [m, m, m];
      if (mode === "fixed") colour = [f, f, f];
      else if (mode === "colours") colour = [f, m, m];
      else if (mode === "checkerboard" && (Math.floor(x / TILE) + Math.floor(y / TILE)) % 2) colour = [f, f, f];
      else if (outline && outline[i]) colour = EDGE_COLOUR;
      else if (map) colour = codes[i] ? map[codes[i]].map(c => 0.7 * c + 0.3 * f) : [f, f, f];
      if (wiped && x === cut && cut > 0) colour = [255, 255, 255];
      picture.data.set([...colour, 255], 4 * i);
    }
    context.putImageData(picture, 0, 0);
    const text = plane.axis && `${plane.axis} = ${Math.round(plane.positions[slice]) || 0} mm`;
    plane.output.textContent = text;
    plane.slider.setAttribute("aria-valuetext", text);
    const label = viewer.querySelector("input[name=show]:checked").parentElement.textContent.trim();
    canvas.setAttribute("aria-label", `${plane.name} slice, ${text}: ${label}`);
    plane.sides.forEach((side, i) => { side.hidden = !wiped || (i ? cut >= width : cut <= 0); });
  }

  function update() {
    const mode = viewer.querySelector("input[name=show]:checked").value;
    wipe.closest(".slider").hidden = !registered || mode in tables || mode === "fixed";
    const share = `${wipe.value} % before`;
    document.getElementById("wipe-output").textContent = share;
    wipe.setAttribute("aria-valuetext", share);
    for (const scale of viewer.querySelectorAll(".scale")) scale.hidden = scale.dataset.map !== mode;
    data.planes.forEach(draw);
  }

  function start() {
    for (const plane of data.planes) {
      const part = document.getElementById(`plane-${plane.name}`);
      plane.canvas = part.querySelector("canvas");
      plane.slider = part.querySelector("input");
      plane.output = part.querySelector("output");
      plane.sides = [part.querySelector(".was"), part.querySelector(".is")];
      plane.scratch = document.createElement("canvas");
      for (const canvas of [plane.canvas, plane.scratch]) {
        canvas.width = plane.width;
        canvas.height = plane.height;
      }
      plane.slider.addEventListener("input", () => draw(plane));
    }
    wipe.addEventListener("input", update);
    for (const choice of viewer.querySelectorAll("input[name=show]")) choice.addEventListener("change", update);
    update();
    viewer.dataset.ready = "yes";
  }
  window.addEventListener("load", start);
})();
