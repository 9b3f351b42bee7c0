"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const data = JSON.parse(document.getElementById("tiles").textContent);
  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };

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

  // Tiles: arrows walk a sheet, Enter opens one.
  const frames = (grid) => all(".frame", grid);
  const top = (frame) => frame.getBoundingClientRect().top;
  const columns = (list) => list.filter((frame) => top(frame) === top(list[0])).length;
  const dialog = document.getElementById("detail");
  let opened = null;
  const step = (frame, by) => {
    const list = frames(frame.closest(".grid"));
    const next = list[list.indexOf(frame) + by];
    if (next) next.focus();
    return next;
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === "/" && !typing && !dialog.open) {
      const input = all(".find").find((one) => one.offsetParent);
      if (input) { event.preventDefault(); input.focus(); }
      return;
    }
    const frame = dialog.open ? opened : event.target.closest && event.target.closest(".frame");
    if (!frame || typing) return;
    const wide = dialog.open ? 1 : columns(frames(frame.closest(".grid")));
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = step(frame, by);
    if (next && dialog.open) open(next);
  });

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
  const fact = (list, key, value, kind) => {
    if (value === null || value === undefined || value === "" || value.length === 0) return;
    const line = make("div", undefined, kind);
    const word = make("dd", value instanceof Node ? undefined : String(value), "ext");
    if (value instanceof Node) word.append(value);
    line.append(make("dt", key), word);
    list.append(line);
  };
  const open = (frame) => {
    opened = frame;
    const tile = frame.closest(".tile");
    const one = data[tile.dataset.tile];
    const image = frame.querySelector("img");
    const picture = dialog.querySelector(".picture");
    picture.replaceChildren(image ? image.cloneNode() : make("span", "no picture", "gone"));
    document.getElementById("detail-name").textContent = tile.querySelector(".name").textContent;
    const guesses = dialog.querySelector(".guesses");
    guesses.replaceChildren(...(one.top || []).map(([label, score, cosine]) => {
      const line = make("li");
      line.append(make("span", (one.labels || []).includes(label) ? `${label} ✓` : label, "ext"), make("b", score), make("small", `cos ${cosine}`), bar(parseFloat(score) || 0));
      return line;
    }));
    const facts = dialog.querySelector(".facts");
    facts.replaceChildren();
    fact(facts, "Decision", one.decision && `${one.decision.replace("_", " ")}: ${one.reason}`, "wide");
    fact(facts, "Labels", one.labels && one.labels.join(", "), "wide");
    fact(facts, "Calibrated", one.calibrated);
    fact(facts, "Margin", one.margin);
    fact(facts, "Entropy", one.entropy);
    fact(facts, "Image", one.image);
    fact(facts, "Caption", one.caption, "wide");
    const uri = make(one.link ? "a" : "span", one.uri, "mono");
    if (one.link) { uri.href = one.link; uri.rel = "noreferrer noopener"; }
    fact(facts, "Uri", uri, "wide");
    fact(facts, "Image id", make("span", one.id, "mono"), "wide");
    const list = frames(frame.closest(".grid"));
    dialog.querySelector('[data-do="back"]').disabled = frame === list[0];
    dialog.querySelector('[data-do="next"]').disabled = frame === list[list.length - 1];
    if (!dialog.open) dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const frame = event.target.closest(".tile .frame");
    if (frame) open(frame);
  });
  dialog.addEventListener("click", (event) => {
    const what = event.target.closest("[data-do]");
    if (event.target === dialog || (what && what.dataset.do === "close")) dialog.close();
    else if (what) { const next = step(opened, what.dataset.do === "next" ? 1 : -1); if (next) open(next); }
  });
  dialog.addEventListener("close", () => { if (opened) opened.focus(); });
  root.dataset.ready = "yes";
})();
