// Questions to densecli, in JSON, below the page's own address, which holds the token.

export class Refused extends Error {}
export class Gone extends Error {}

export async function ask(name, body = {}) {
  let response;
  try {
    response = await fetch(`api/${name}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Gone("densecli tune does not answer; if it has ended, start it again for another look");
  }
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

let returning = null;

// Resolves when densecli answers again, as after a link that was down for a moment. Asks ever more seldom.
export function answering() {
  return returning ||= (async () => {
    for (let pause = 1000; ; pause = Math.min(30000, 2 * pause)) {
      await new Promise((resolve) => setTimeout(resolve, pause));
      try {
        await ask("job");
        returning = null;
        return;
      } catch {
        // Still away; or another program has its port.
      }
    }
  })();
}

// From so many milliseconds on, a user wonders whether anything happens.
const SLOW = 300;

// Asks one question at a time; of those that come up meanwhile only the latest is asked afterwards.
export class Latest {
  // busy(whether): what is shown is not the answer yet, and has not been for a while. done: when nothing is left to
  // ask.
  constructor(name, take, fail, busy) {
    Object.assign(this, { name, take, fail, busy, running: false, next: null, done: Promise.resolve() });
  }

  ask(body) {
    this.next = body;
    if (!this.running) this.done = this.run();
  }

  async run() {
    this.running = true;
    while (this.next) {
      const body = this.next, begin = performance.now();
      this.next = null;
      const slow = setTimeout(() => this.busy(true), SLOW);
      try {
        this.take(await ask(this.name, body), begin, body);
      } catch (error) {
        this.fail(error);
      }
      clearTimeout(slow);
    }
    this.running = false;
    this.busy(false);
  }
}
