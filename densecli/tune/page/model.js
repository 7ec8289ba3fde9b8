// What takes longer than a move of a slider: denser grids, wholes, fill, edges. One job at a time, with progress.

import { allow, byId, hide, isAllowed, make, number } from "./making.js";
import { Gone, answering, ask } from "./server.js";

const POLL = 300;

export class Model {
  // values(): those of this tab. added(points_per_side): this tab's points are there; answered(): any other job is
  // done. fail(error).
  constructor(start, values, added, answered, fail) {
    Object.assign(this, { values, added, answered, fail, running: false, offered: "", own: null, button: null });
    this.denser = byId("denser");
    byId("add").addEventListener("click", () =>
      this.begin(byId("add"), "add-points", { points_per_side: Number(this.denser.value) }));
    byId("finish").addEventListener("click", () => this.begin(byId("finish"), "finish", { values: this.values() }));
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
    this.denser.disabled = !denser.length;
    this.allow();
    const grid = byId("set-points_per_side"), current = grid.value;
    grid.replaceChildren(...grids.map((n) => make("option", { value: n }, `${n} × ${n} = ${number(n * n)} points`)));
    grid.disabled = grids.length < 2;
    if (current) grid.value = current;
  }

  // Two jobs at a time there are not.
  allow() {
    allow(byId("add"), !this.running && this.denser.options.length > 0);
    allow(byId("finish"), !this.running);
  }

  async begin(button, name, body) {
    if (!isAllowed(button)) return;
    try {
      const job = await ask(name, body);
      this.own = job.number;
      this.button = button;
      this.watch(job);
    } catch (error) {
      this.fail(error);
    }
  }

  watch(job) {
    this.show(job);
    const step = async () => {
      try {
        const latest = await ask("job");
        this.show(latest);
        if (latest.state === "running") setTimeout(step, POLL);
        else this.ended(latest);
      } catch (error) {
        this.fail(error);
        // The job goes on where only the link is down.
        if (error instanceof Gone) answering().then(step);
        else this.leave();
      }
    };
    setTimeout(step, POLL);
  }

  show(job) {
    if (job.state !== "running") return this.leave();
    this.running = true;
    byId("job").hidden = false;
    this.allow();
    byId("job-what").textContent = job.total
      ? `${job.what}: ${number(job.done)} of ${number(job.total)}` : `${job.what} …`;
    const bar = byId("job-bar");
    if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
  }

  leave() {
    this.running = false;
    this.allow();
    hide(byId("job"), this.button?.getClientRects().length ? this.button : byId("results"));
  }

  ended(job) {
    const said = byId("job-said");
    said.textContent = { done: "", failed: job.error, cancelled: `${job.what}: stopped` }[job.state];
    if (job.state !== "done") return;
    // Another tab's points are on offer here too, but it is for its user to go there.
    if (job.result.points_per_side && job.number === this.own) this.added(job.result.points_per_side);
    else this.answered();
  }
}
