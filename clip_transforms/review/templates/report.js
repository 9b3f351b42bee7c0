"use strict";
// The page itself: light and dark, one prompt set at a time, finding a label, walking over the tiles.
const beamclip = {};
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const bar = (share) => {
    const name = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(name, "svg");
    for (const [key, value] of [["class", "bar"], ["viewBox", "0 0 100 4"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
    for (const [kind, width] of [["ground", 100], ["ink", 100 * Math.max(0, Math.min(1, share))]]) {
      const rect = document.createElementNS(name, "rect");
      rect.setAttribute("class", kind); rect.setAttribute("height", "4"); rect.setAttribute("width", String(width));
      svg.append(rect);
    }
    return svg;
  };
  const modal = () => document.querySelector("dialog[open]");
  const keyOf = (event) => event.key.length === 1 ? event.key.toLowerCase() : event.key;  // whatever Caps Lock says
  const typing = (node) => node.matches && node.matches("input, textarea, select");

  // Light and dark: the system's choice until the reader makes one.
  const theme = document.getElementById("theme");
  const remember = (value) => { try { localStorage.setItem("beamclip-theme", value); } catch { /* not allowed here */ } };
  try { const kept = localStorage.getItem("beamclip-theme"); if (kept) root.dataset.theme = kept; } catch { /* same */ }
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(root.dataset.theme);
  });

  // One prompt set at a time; a link into another one shows that.
  const sets = all(".set");
  const tabs = all(".tab");
  const show = (id) => {
    for (const set of sets) set.hidden = set.id !== id;
    for (const tab of tabs) tab.dataset.set === id ? tab.setAttribute("aria-current", "true") : tab.removeAttribute("aria-current");
  };
  const follow = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    const set = target && target.closest(".set");
    if (!set || !set.hidden) return;
    show(set.id);
    if (target !== set) target.scrollIntoView();
  };
  if (sets.length > 1) {
    show(sets[0].id);
    for (const tab of tabs) tab.addEventListener("click", (event) => {
      event.preventDefault();
      show(tab.dataset.set);
      history.replaceState(null, "", `#${tab.dataset.set}`);
    });
    addEventListener("hashchange", follow);
    follow();
  }

  // Find a label.
  for (const input of all(".find")) {
    input.hidden = false;
    const lines = all("li", input.parentElement);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const line of lines) line.hidden = !words.every((word) => line.dataset.word.toLowerCase().includes(word));
    });
  }

  // Tiles: the arrows walk a sheet.
  const frames = (grid) => all(".frame", grid);
  const top = (frame) => frame.getBoundingClientRect().top;
  const columns = (list) => list.filter((frame) => top(frame) === top(list[0])).length;
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || modal() || typing(event.target)) return;
    if (event.key === "/") {
      const input = all(".find").find((one) => one.offsetParent);
      if (input) { event.preventDefault(); input.focus(); }
      return;
    }
    const frame = event.target.closest && event.target.closest(".frame");
    if (!frame) return;
    const list = frames(frame.closest(".grid"));
    const by = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1, ArrowUp: -columns(list), ArrowDown: columns(list) }[keyOf(event)];
    if (!by) return;
    event.preventDefault();
    const next = list[list.indexOf(frame) + by];
    if (next) next.focus();
  });

  Object.assign(beamclip, { all, make, bar, frames, modal, keyOf, typing, data: JSON.parse(document.getElementById("tiles").textContent) });
  root.dataset.ready = "yes";
})();
