"use strict";
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const chart = JSON.parse(svg.dataset.hover);
  const output = svg.parentNode.querySelector("output");
  const cursor = svg.querySelector(".cursor");
  const rest = output.innerHTML;
  const scale = chart.log ? Math.log10 : (x) => x;
  const [low, high] = [scale(chart.low), scale(chart.high)];
  const place = (x) => chart.from + ((scale(x) - low) / (high - low)) * (chart.to - chart.from);
  const write = (y) => (y === null ? "none" : chart.share ? (100 * y).toFixed(1) + " %" : String(+y.toPrecision(3)));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * chart.width;
    const nearest = (points) =>
      points.reduce((best, point) => (Math.abs(place(point[0]) - at) < Math.abs(place(best[0]) - at) ? point : best));
    const found = chart.lines.map(([label, points]) => [label, nearest(points)]);
    const x = found[0][1][0];
    cursor.classList.add("on");
    output.classList.add("on");
    cursor.setAttribute("x1", place(x));
    cursor.setAttribute("x2", place(x));
    output.textContent =
      chart.name + " " + Math.round(x).toLocaleString("en") + ": " +
      found.map(([label, point]) => (label ? label + " " : "") + write(point[1])).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.classList.remove("on");
    output.classList.remove("on");
    output.innerHTML = rest;
  });
}
