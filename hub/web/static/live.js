// Says whether a live part of the page ([data-live]) follows, and marks what is new in it. htmx does
// the rest: see live-head.html. Without it, the page says the same after a reload.
"use strict";

{
  const SLOWEST_MS = 30000;
  const GONE = new Set([401, 403, 404]); // signed out, or out of sight: asking again is of no use

  for (const region of document.querySelectorAll("[data-live]")) {
    const keys = () =>
      new Set(Array.from(region.querySelectorAll("[data-key]"), (row) => row.dataset.key));
    let before = new Set();
    let wait = 2000;
    let isOver = false;

    // The words are the page's own, in its language: data-on, data-off, data-end; data-over where
    // what is shown is over, and only what is late still comes.
    const tell = (name) => {
      const state = region.querySelector(".live-state");
      // What has come may lag behind, and says so itself: then it is not called live.
      const doubt = name === "on" && region.querySelector("[data-doubt]");
      const over = name === "on" && region.querySelector("[data-over]");
      const words = doubt ? doubt.dataset.doubt : over ? over.dataset.over : region.dataset[name];
      if (isOver || !state || state.textContent === words) return;
      isOver = name === "end";
      state.dataset.state = doubt ? "off" : name;
      state.textContent = words;
      state.hidden = false;
    };

    // The extension comes back to a stream that broke off, but not to one that never began.
    const again = (status) => {
      tell(GONE.has(status) ? "end" : "off");
      if (isOver) return;
      setTimeout(() => region.dispatchEvent(new Event("again")), wait);
      wait = Math.min(2 * wait, SLOWEST_MS);
    };
    region.addEventListener("htmx:response:error", (event) => again(event.detail.ctx.response.status));
    region.addEventListener("htmx:error", () => again());

    region.addEventListener("htmx:sse:before:connection", (event) => {
      if (isOver) event.preventDefault();
      else if (event.detail.connection.attempt > 0) tell("off");
    });
    region.addEventListener("htmx:sse:error", (event) => tell(GONE.has(event.detail.status) ? "end" : "off"));
    region.addEventListener("htmx:sse:before:message", () => { before = keys(); });
    region.addEventListener("htmx:sse:after:message", (event) => {
      if (event.detail.message.event) return tell("end");
      wait = 2000;
      tell("on");
      for (const row of region.querySelectorAll("[data-key]")) {
        row.classList.toggle("fresh", !before.has(row.dataset.key));
      }
    });
  }
}
