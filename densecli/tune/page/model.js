// What takes longer than a move of a slider: denser grids, wholes, fill, edges. One job at a time, with progress.

import { byId, make, number } from "./making.js";
import { ask } from "./server.js";

const POLL = 300;

export class Model {
  // values(): those of this tab. added(points_per_side), answered(): the job is done. fail(error).
  constructor(start, values, added, answered, fail) {
    Object.assign(this, { values, added, answered, fail, watched: null, offered: "" });
    this.denser = byId("denser");
    byId("add").addEventListener("click", () =>
      this.begin("add-points", { points_per_side: Number(this.denser.value) }));
    byId("finish").addEventListener("click", () => this.begin("finish", { values: this.values() }));
    byId("stop").addEventListener("click", () => ask("stop").catch(this.fail));
    byId("model-part").hidden = !start.has_model;
    byId("no-model").hidden = start.has_model;
    this.offer(start);
    // Another tab may have begun something.
    ask("job").then((job) => { if (job && job.state === "running") this.watch(job); }).catch(this.fail);
  }

  offer({ grids, denser }) {
    const text = JSON.stringify([grids, denser]);
    if (text === this.offered) return;
    this.offered = text;
    this.denser.replaceChildren(...denser.map((n) => make("option", { value: n }, `${n} × ${n}`)));
    byId("add").disabled = this.denser.disabled = !denser.length || this.watched !== null;
    const grid = byId("set-points_per_side"), current = grid.value;
    grid.replaceChildren(...grids.map((n) => make("option", { value: n }, `${n} × ${n} = ${number(n * n)} points`)));
    grid.disabled = grids.length < 2;
    if (current) grid.value = current;
  }

  async begin(name, body) {
    try {
      this.watch(await ask(name, body));
    } catch (error) {
      this.fail(error);
    }
  }

  watch(job) {
    this.watched = job.number;
    this.show(job);
    const step = async () => {
      try {
        const latest = await ask("job");
        this.show(latest);
        if (latest.state === "running") setTimeout(step, POLL);
        else this.ended(latest);
      } catch (error) {
        this.watched = null;
        this.fail(error);
      }
    };
    setTimeout(step, POLL);
  }

  show(job) {
    const running = job.state === "running";
    byId("job").hidden = !running;
    byId("add").disabled = byId("finish").disabled = running;
    byId("job-what").textContent = job.total
      ? `${job.what}: ${number(job.done)} of ${number(job.total)}` : `${job.what} …`;
    const bar = byId("job-bar");
    if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
  }

  ended(job) {
    this.watched = null;
    byId("add").disabled = !this.denser.options.length;
    const said = byId("job-said");
    said.textContent = { done: "", failed: job.error, cancelled: `${job.what}: stopped` }[job.state];
    if (job.state !== "done") return;
    if (job.result.points_per_side) this.added(job.result.points_per_side);
    else this.answered();
  }
}
