// Undo and redo: every set of values that was settled on, in order.

export class History {
  constructor(values) {
    this.past = [values];
    this.at = 0;
  }

  // Go on where another one was left: { past, at }.
  resume({ past, at }) { Object.assign(this, { past, at }); }

  get values() { return this.past[this.at]; }
  get canUndo() { return this.at > 0; }
  get canRedo() { return this.at < this.past.length - 1; }

  // Returns whether anything changed.
  settle(values) {
    if (JSON.stringify(values) === JSON.stringify(this.values)) return false;
    this.past.splice(this.at + 1, Infinity, { ...values });
    this.at++;
    return true;
  }

  undo() { if (this.canUndo) this.at--; return this.values; }
  redo() { if (this.canRedo) this.at++; return this.values; }
}
