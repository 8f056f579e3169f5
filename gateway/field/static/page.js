"use strict";
/* Replaces what changes, every two seconds while somebody looks. */

const EVERY_MS = 2000;
const WITHIN_MS = 5000;

async function refresh() {
  const offline = document.getElementById("offline");
  try {
    const answer = await fetch(location.pathname + "?live", {
      credentials: "same-origin",
      signal: AbortSignal.timeout(WITHIN_MS),
    });
    if (answer.status === 401) {
      location.assign("/login");
      return;
    }
    if (!answer.ok) {
      throw new Error(answer.statusText);
    }
    show(await answer.text());
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  }
}

/* What somebody has folded or unfolded, and where the keyboard is, stays. */
function show(text) {
  const old = document.getElementById("live");
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("live");
  if (!fresh) {
    return;
  }
  const focused = document.activeElement?.closest("details")?.id;
  for (const one of old.querySelectorAll("details[id]")) {
    const same = fresh.querySelector("#" + CSS.escape(one.id));
    if (same) {
      same.open = one.open;
    }
  }
  old.replaceWith(document.adoptNode(fresh));
  if (focused) {
    document.getElementById(focused)?.querySelector("summary")?.focus({ preventScroll: true });
  }
}

async function loop() {
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (!document.hidden) {
      await refresh();
    }
  }
}

loop();
