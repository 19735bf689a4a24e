"use strict";
(() => {
  const every = 5000;
  const note = document.getElementById("stale");
  let last = Date.now();
  let busy = false;
  const refresh = async () => {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(4 * every) });
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = next.querySelector("main");
      if (!main) throw new Error("no page");
      document.querySelector("main").replaceWith(main);
      document.title = next.title;
      last = Date.now();
      note.hidden = true;
    } catch {
      const seconds = Math.round((Date.now() - last) / 1000);
      note.textContent = `The worker does not answer: this page is ${seconds} s old.`;
      note.hidden = false;
    } finally {
      busy = false;
    }
  };
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
})();
