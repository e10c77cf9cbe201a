// Draws what the device says, and nothing of its own but this: that the device says nothing.
// The stream brings the whole state each time; a page that comes back needs no memory.
"use strict";

const SILENT_MS = 3500; // the device is heard of each second
const HOLD_MS = 2000;
const LEAVE_MS = 120000;

const $ = (id) => document.getElementById(id);
const say = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

let token = "";
let version = "";
let serial = null;
let state = null;
let heard = performance.now();
let stream = null;

// --- what is shown ------------------------------------------------------------------------------

function draw(next) {
  const news = serial !== null && next.serial !== serial;
  serial = next.serial;
  state = next;
  const body = document.body;
  body.dataset.look = next.look;
  if (news) {
    body.classList.remove("news");
    void body.offsetWidth; // the same again begins anew
    body.classList.add("news");
  }
  $("shape").setAttribute("href", `#shape-${next.look}`);
  say($("words"), next.words);
  $("words").dataset.n = String(Math.min(8, Math.max(3, next.words.length)));
  say($("more"), next.more);
  say($("banner"), next.banner);
  $("banner").hidden = !next.banner;
  const read = [next.banner, next.words, next.more].filter(Boolean).join("，");
  if (news) $("say").textContent = "";
  say($("say"), read);
  drawMeeting(next);
  say($("tally"), next.tally);
  $("tally").hidden = !next.tally;
  say($("line"), next.line);
  $("line").hidden = !next.line;
  say($("time"), next.time);
  drawParts(next.parts);
  $("asked").hidden = next.asked === null || next.look !== "awaiting";
  if (next.asked !== null) say($("left"), `还剩 ${next.asked.left_s} 秒`);
  $("desk").classList.toggle("behind", !["ready", "undone"].includes(next.look) && isNews(next.look));
}

// The looks that a card brings.
function isNews(look) {
  return ["good", "plain", "repeat", "check", "acted", "again"].includes(look);
}

function drawMeeting(next) {
  const meeting = next.meeting;
  say($("title"), meeting === null ? "刷卡签到" : meeting.title);
  say($("when"), meeting === null ? "" : meeting.when);
  const figures = meeting === null ? null : meeting.figures;
  $("board").hidden = figures === null;
  if (figures === null) return;
  say($("present"), String(figures.present));
  say($("expected"), String(figures.expected));
  $("share").max = Math.max(1, figures.expected);
  $("share").value = Math.min(figures.present, figures.expected);
  $("quorum").hidden = figures.quorum === "";
  $("quorum").dataset.quorum = figures.quorum;
  if (figures.quorum !== "") $("quorum-shape").setAttribute("href", `#quorum-${figures.quorum}`);
  say($("quorum-words"), figures.quorum_words);
  say($("age"), figures.age);
  say($("others"), meeting.others);
}

const SVG = "http://www.w3.org/2000/svg";

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

let drawnParts = "";

function drawParts(parts) {
  const now = JSON.stringify(parts);
  if (now === drawnParts) return;
  drawnParts = now;
  $("parts").replaceChildren(
    ...parts.map((part) => {
      const item = document.createElement("li");
      const word = document.createElement("span");
      item.dataset.state = part.state;
      item.dataset.part = part.name;
      word.textContent = part.word;
      item.append(icon(part.state === "good" ? `part-${part.name}` : `state-${part.state}`), word);
      return item;
    }),
  );
}

function lost() {
  if (document.body.dataset.look === "lost") return;
  state = null;
  leave();
  document.body.classList.remove("news");
  document.body.dataset.look = "lost";
  $("shape").setAttribute("href", "#shape-lost");
  $("asked").hidden = true;
  say($("words"), "设备未运行");
  $("words").dataset.n = "5";
  say($("more"), "现在刷卡不会被记录，请联系工作人员");
  say($("time"), "");
  say($("say"), "设备未运行，现在刷卡不会被记录，请联系工作人员");
}

// --- the stream ---------------------------------------------------------------------------------

function listen() {
  stream = new EventSource("/events");
  stream.addEventListener("hello", (event) => {
    const said = JSON.parse(event.data);
    if (version !== "" && version !== said.version) location.reload();
    version = said.version;
    token = said.token;
  });
  stream.addEventListener("message", (event) => {
    heard = performance.now();
    draw(JSON.parse(event.data));
  });
  stream.addEventListener("beat", () => {
    heard = performance.now();
    if (state === null) again(); // woke up after a silence: ask for the whole state
  });
}

function again() {
  stream.close();
  listen();
}

setInterval(() => {
  const silent = performance.now() - heard;
  if (silent > SILENT_MS) lost();
  if (stream.readyState === EventSource.CLOSED || (silent > SILENT_MS && silent % 4000 < 500)) again();
}, 500);

listen();

// --- the technician's corner --------------------------------------------------------------------

const desk = $("desk");
let holding = 0;
let leaving = 0;
let showing = "acts";

function hold() {
  if (holding || desk.open || state === null) return;
  $("corner").classList.add("held");
  holding = setTimeout(() => {
    release();
    enter();
  }, HOLD_MS);
}

function release() {
  clearTimeout(holding);
  holding = 0;
  $("corner").classList.remove("held");
}

$("corner").addEventListener("pointerdown", hold);
for (const name of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) {
  $("corner").addEventListener(name, release);
}
$("corner").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    hold();
  }
});
document.addEventListener("contextmenu", (event) => event.preventDefault());

async function enter() {
  desk.showModal();
  stay();
  answer("");
  select("acts");
  const found = await post("look", {});
  if (found === null) return;
  describe(found.here);
}

function describe(here) {
  say($("device"), here.enrolled ? here.name || here.trouble : "设备未登记");
  $("tab-enrol").hidden = here.enrolled;
  if (!here.enrolled) select("enrol");
  else if (showing === "enrol") select("acts");
}

function leave() {
  clearTimeout(leaving);
  for (const input of desk.querySelectorAll("input")) input.value = "";
  if (desk.open) desk.close();
}

// Nobody is there any more.
function stay() {
  clearTimeout(leaving);
  leaving = setTimeout(leave, LEAVE_MS);
}
desk.addEventListener("pointerdown", stay);
desk.addEventListener("keydown", stay);
desk.addEventListener("close", leave);
$("close").addEventListener("click", leave);

async function post(what, body) {
  try {
    const response = await fetch(`/corner/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Kiosk-Token": token },
      body: JSON.stringify(body),
    });
    const said = await response.json();
    if (response.ok) return said;
    answer(said.words, said.detail, false);
  } catch {
    answer("设备没有回答", "", false);
  }
  return null;
}

function answer(words, detail = "", good = true) {
  const element = $("answer");
  element.textContent = words;
  element.dataset.good = good ? "yes" : "no";
  if (detail) {
    const small = document.createElement("small");
    small.lang = "en";
    small.textContent = detail;
    element.append(small);
  }
}

const TABS = ["acts", "findings", "entries", "enrol"];

function select(name) {
  showing = name;
  answer("");
  for (const each of TABS) {
    const chosen = each === name;
    $(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${each}`).tabIndex = chosen ? 0 : -1;
    $(`panel-${each}`).hidden = !chosen;
  }
  $("keys").hidden = true;
}

for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => open(name));
desk.querySelector(".tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const there = TABS.filter((name) => !$(`tab-${name}`).hidden);
  const next = there[(there.indexOf(showing) + step + there.length) % there.length];
  open(next);
  $(`tab-${next}`).focus();
});

function open(name) {
  select(name);
  if (name === "findings") examine();
  if (name === "entries") recall();
}

async function examine() {
  $("findings").replaceChildren();
  answer("正在检查，最多需要二十秒…");
  const found = await post("look", { what: "findings" });
  if (found === null) return;
  const bad = found.findings.filter((each) => !each.good).length;
  if (showing !== "findings") return;
  answer(bad ? `有 ${bad} 项需要处理` : "都正常", found.failure, bad === 0);
  const inOrder = [...found.findings.filter((each) => !each.good), ...found.findings.filter((each) => each.good)];
  $("findings").replaceChildren(
    ...inOrder.map((each) => {
      const item = document.createElement("li");
      const mark = document.createElement("span");
      const what = document.createElement("span");
      mark.className = each.good ? "mark-good" : "mark-bad";
      mark.textContent = each.good ? "✔ 正常" : "▲ 处理";
      what.lang = "en";
      what.textContent = each.what;
      item.append(mark, what);
      if (each.advice) {
        const advice = document.createElement("span");
        advice.className = "advice";
        advice.lang = "en";
        advice.textContent = each.advice;
        item.append(advice);
      }
      return item;
    }),
  );
}

async function recall() {
  $("entries").replaceChildren();
  const found = await post("look", { what: "entries" });
  if (found === null || showing !== "entries") return;
  if (!found.entries.length) answer("还没有记录");
  $("entries").replaceChildren(
    ...found.entries.map((each) => {
      const item = document.createElement("li");
      const at = document.createElement("span");
      const what = document.createElement("span");
      at.className = "at";
      at.textContent = each.when;
      what.textContent = `${each.what}　${each.received ? "✔ 平台已收到" : "… 待上传"}`;
      item.append(at, what);
      return item;
    }),
  );
}

for (const button of desk.querySelectorAll("[data-act]")) {
  button.addEventListener("click", async () => {
    const done = await post("ask", {
      act: button.dataset.act,
      number: $("number").value,
      member: $("member").value,
    });
    if (done !== null) leave(); // the screen says who is to hold a card there
  });
}

$("cancel").addEventListener("click", () => post("cancel", {}));

$("enrol").addEventListener("click", async () => {
  answer("正在登记…");
  const done = await post("enrol", { hub: $("hub").value, code: $("code").value });
  if (done === null) return;
  const found = await post("look", {});
  if (found !== null) describe(found.here);
  answer(done.words);
});

// --- keys on the screen: there may be no keyboard -----------------------------------------------

let typing = null;
for (const input of desk.querySelectorAll("input")) {
  input.addEventListener("focus", () => {
    typing = input;
    $("keys").hidden = false;
  });
}

function type(key) {
  if (typing === null || typing.closest("section").hidden) {
    typing = desk.querySelector("section:not([hidden]) input");
  }
  if (typing === null) return;
  typing.focus();
  if (key === "⌫") typing.value = typing.value.slice(0, -1);
  else if (key === CLEAR) typing.value = "";
  else if (typing.value.length + key.length <= typing.maxLength) typing.value += key;
}

const CLEAR = "清空";
const KEYS = [..."1234567890-⌫QWERTYUIOP.:ASDFGHJKL/", "http://", ..."ZXCVBNM_", "https://", CLEAR];
$("keys").replaceChildren(
  ...KEYS.map((key) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = key;
    button.tabIndex = -1; // for fingers; who has a keyboard types
    if (key === "⌫") button.setAttribute("aria-label", "删除");
    if (key.length > 1) button.className = "wide";
    button.addEventListener("click", () => type(key));
    return button;
  }),
);
