// Keeps one meeting's page up to date. Without it, the page says the same after a reload.
"use strict";

(() => {
  const region = document.getElementById("live");
  const state = document.getElementById("live-state");
  const asOf = document.getElementById("as-of");
  const say = document.getElementById("say");

  const print = document.getElementById("print");
  print.hidden = false;
  print.addEventListener("click", () => window.print());

  const SLOWEST_MS = 30000;
  let wait = 2000;

  function tell(name, words) {
    if (state.dataset.state === name) return;
    state.dataset.state = name;
    state.textContent = words;
    state.hidden = false;
  }

  function keys() {
    return new Set(Array.from(region.querySelectorAll("[data-key]"), (row) => row.dataset.key));
  }

  function show(html) {
    const before = keys();
    const said = document.getElementById("attendance").dataset.summary;
    region.innerHTML = html;
    const now = document.getElementById("attendance");
    asOf.textContent = now.dataset.asOf;
    for (const row of region.querySelectorAll("[data-key]")) {
      if (!before.has(row.dataset.key)) row.classList.add("fresh");
    }
    // Read aloud the figures, not the table.
    if (now.dataset.summary !== said) say.textContent = now.dataset.summary;
  }

  function connect() {
    const source = new EventSource(region.dataset.stream);
    source.addEventListener("attendance", (event) => {
      wait = 2000;
      tell("on", "实时更新中");
      show(event.data);
    });
    source.addEventListener("end", () => {
      source.close();
      tell("end", "已停止更新，请刷新页面");
    });
    source.addEventListener("error", () => {
      tell("off", "连接已断开，正在重连");
      // The browser connects again by itself, but not after an answer such as 503.
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(connect, wait);
        wait = Math.min(2 * wait, SLOWEST_MS);
      }
    });
  }

  if ("EventSource" in window) connect();
})();
