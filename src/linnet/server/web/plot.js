// A line of numbers over time, small.
import { h, svg } from "./dom.js";

const WIDTH = 260;
const HEIGHT = 72;

/** values: numbers, oldest first; said: what they come to, written out. most: the top of the scale, or none. */
export function plot(element, values, said, most) {
  if (!values.length) {
    element.replaceChildren(h("p", { class: "none" }, "Nothing yet."));
    return;
  }
  const highest = Math.max(...values);
  const top = most ?? (highest * 1.1 || 1);
  const x = (i) => (values.length < 2 ? WIDTH : (WIDTH * i) / (values.length - 1));
  const y = (value) => HEIGHT - 2 - ((HEIGHT - 4) * Math.min(value, top)) / top;
  const points = values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
  const label = `${said}; of ${values.length} values the highest is ${highest.toFixed(1)}`;
  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    svg("polygon", { class: "area", points: `0,${HEIGHT} 0,${y(values[0])} ${points.join(" ")} ${WIDTH},${HEIGHT}` }),
    svg("polyline", { class: "line", points: points.length < 2 ? `0,${y(values[0])} ${points[0]}` : points.join(" ") }));
  element.replaceChildren(h("p", { class: "now" }, said), image);
}
