/** One figure over time, with its scale: the largest value, the time, and under the pointer each reading. */

import { drawn, element } from "./elements.js";

const FIRST = 30; // points at first: a chart of two minutes would show nothing of the first of them
const WIDTH = 240;
const HEIGHT = 60;

export class Chart {
  /** @type {(number | null)[]} */
  #points = [];

  /**
   * @param {string} name
   * @param {(value: number) => string} show
   * @param {number} most  How many points it has at most, a second each.
   */
  constructor(name, show, most) {
    this.name = name;
    this.show = show;
    this.most = most;
    this.size = FIRST;
    this.since = element("span");
    this.value = element("output", {}, "–");
    this.top = element("span", { class: "top" });
    this.tip = element("span", { class: "tip" });
    this.path = drawn("path");
    this.cursor = drawn("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const grid = [0, 0.5, 1].map((share) =>
      drawn("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share }),
    );
    this.drawing = drawn(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: 0 },
      ...grid,
      this.path,
      this.cursor,
    );
    const minutes = element("span", { class: "axis" }, this.since, this.tip, element("span", {}, "now"));
    this.element = element(
      "figure",
      {},
      element("figcaption", {}, name),
      this.value,
      this.top,
      this.drawing,
      minutes,
    );
    this.drawing.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      const { left, width } = this.drawing.getBoundingClientRect();
      this.#point(Math.round(((event.clientX - left) / width) * (this.size - 1)));
    });
    this.drawing.addEventListener("pointerleave", () => this.#point(null));
    this.drawing.addEventListener("blur", () => this.#point(null));
    this.drawing.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.#point(Math.min(this.size - 1, Math.max(0, (this.at ?? this.size - 1) + step)));
    });
    /** @type {number | null} Which place is pointed at. */
    this.at = null;
  }

  /** @param {(number | null)[]} points  The newest last; null: not known. */
  draw(points) {
    while (this.size < points.length && this.size < this.most) this.size *= 2;
    this.since.textContent = this.size < 60 ? `${this.size} s ago` : `${this.size / 60} min ago`;
    this.#points = [...Array(this.size - points.length).fill(null), ...points];
    const most = Math.max(...this.#points.map((one) => one ?? 0));
    const last = points.at(-1) ?? null;
    let pen = "M";
    const steps = this.#points.map((one, index) => {
      if (one === null) {
        pen = "M";
        return "";
      }
      const x = (index * WIDTH) / (this.size - 1);
      const y = HEIGHT - 1 - (most ? ((HEIGHT - 2) * one) / most : 0);
      const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
      return step;
    });
    this.path.setAttribute("d", steps.join(""));
    this.value.textContent = last === null ? "–" : this.show(last);
    this.top.textContent = `max ${this.show(most)}`;
    this.drawing.setAttribute(
      "aria-label",
      `${this.name}: ${this.value.textContent}; at most ${this.show(most)} since ${this.since.textContent}`,
    );
    if (this.at !== null) this.#point(this.at);
  }

  /** @param {number | null} at  Show the reading at this place. */
  #point(at) {
    this.at = at;
    this.cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) {
      this.tip.textContent = "";
      return;
    }
    const x = (at * WIDTH) / (this.size - 1);
    this.cursor.setAttribute("x1", String(x));
    this.cursor.setAttribute("x2", String(x));
    const point = this.#points[at] ?? null;
    this.tip.textContent = `${point === null ? "–" : this.show(point)}, ${this.size - 1 - at} s ago`;
  }
}
