// What a tab keeps over a reload and the back button. Other tabs have theirs; and the address, which holds the token,
// is another one with the next run.

export function remember(what) {
  try {
    sessionStorage.setItem(location.pathname, JSON.stringify(what));
  } catch {
    // A browser may be told to store nothing.
  }
}

// What was remembered last, null where nothing was.
export function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(location.pathname));
  } catch {
    return null;
  }
}
