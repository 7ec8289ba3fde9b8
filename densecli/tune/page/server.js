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
    throw new Gone("densecli tune has ended; start it again for another look");
  }
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

// Asks one question at a time; of those that come up meanwhile only the latest is asked afterwards.
export class Latest {
  constructor(name, take, fail) {
    Object.assign(this, { name, take, fail, busy: false, next: null });
  }

  ask(body) {
    this.next = body;
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    while (this.next) {
      const body = this.next, begin = performance.now();
      this.next = null;
      try {
        this.take(await ask(this.name, body), begin, body);
      } catch (error) {
        this.fail(error);
      }
    }
    this.busy = false;
  }
}
