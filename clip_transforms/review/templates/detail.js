"use strict";
// One image, large, with what is known of it: the dialog that every tile opens.
beamclip.detail = (() => {
  const { all, make, frames, keyOf, typing, data } = beamclip;
  const dialog = document.getElementById("detail");
  const part = (name) => dialog.querySelector(`[data-do="${name}"]`);
  const detail = { dialog, frame: null, among: [], watchers: [] };
  const fact = (list, key, value, kind) => {
    if (value === null || value === undefined || value === "") return;
    const line = make("div", undefined, kind);
    const word = make("dd", value instanceof Node ? undefined : String(value), "ext");
    if (value instanceof Node) word.append(value);
    line.append(make("dt", key), word);
    list.append(line);
  };
  const drawFacts = (one) => {
    const facts = dialog.querySelector(".facts");
    facts.replaceChildren();
    fact(facts, "Decision", one.decision && `${one.decision.replace("_", " ")}: ${one.reason}`, "wide");
    fact(facts, "Margin", one.margin);
    fact(facts, "Entropy", one.entropy);
    fact(facts, "Calibrated", one.calibrated);
    fact(facts, "Image", one.image);
    fact(facts, "Caption", one.caption, "wide");
    const uri = make(one.link ? "a" : "span", one.uri, "mono");
    if (one.link) { uri.href = one.link; uri.rel = "noreferrer noopener"; uri.target = "_blank"; uri.id = "original"; }
    fact(facts, "Uri", uri, "wide");
    fact(facts, "Image id", make("span", one.id, "mono"), "wide");
  };

  // Show a tile; the arrows then go through `among`: the tiles of its sheet, unless told.
  detail.open = (frame, among) => {
    detail.frame = frame;
    detail.among = among || frames(frame.closest(".grid"));
    const tile = frame.closest(".tile");
    const one = data[tile.dataset.tile];
    const image = frame.querySelector("img");
    const picture = dialog.querySelector(".picture");
    picture.replaceChildren(image ? image.cloneNode() : make("span", "no picture", "gone"));
    const name = tile.querySelector(".name");
    document.getElementById("detail-name").textContent = name ? name.textContent : one.uri;
    drawFacts(one);
    const place = detail.among.indexOf(frame);
    dialog.querySelector(".place").textContent = `${(place + 1).toLocaleString("en")} of ${detail.among.length.toLocaleString("en")}`;
    part("back").disabled = place === 0;
    part("next").disabled = place === detail.among.length - 1;
    for (const watcher of detail.watchers) watcher(frame, one);
    if (!dialog.open) dialog.showModal();
    dialog.querySelector(".body").focus({ preventScroll: true });
    dialog.scrollTop = 0;
  };
  detail.step = (by) => {
    const next = detail.among[detail.among.indexOf(detail.frame) + by];
    if (next) detail.open(next, detail.among);
  };

  document.addEventListener("click", (event) => {
    const frame = event.target.closest(".tile .frame");
    if (frame) detail.open(frame);
  });
  dialog.addEventListener("click", (event) => {
    const what = event.target.closest("[data-do]");
    if (event.target === dialog || (what && what.dataset.do === "close")) detail.close(detail.frame);
    else if (what && what.dataset.do === "next") detail.step(1);
    else if (what && what.dataset.do === "back") detail.step(-1);
  });
  // Close it; the focus goes back to its tile, or to where it is told to.
  const goBack = (node) => {
    if (!node || !node.offsetParent) return;
    node.focus();
    if (node !== detail.frame) node.scrollIntoView({ block: "center" });
  };
  let closing = false;
  detail.close = (then) => { closing = true; dialog.close(); goBack(then); };
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); detail.close(detail.frame); });  // Escape
  dialog.addEventListener("close", () => {  // comes later; not every Escape is a "cancel" before it
    if (!closing) goBack(detail.frame);
    closing = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || typing(event.target)) return;
    if (!dialog.open || all("dialog[open]").some((one) => one !== dialog)) return;
    const by = { ArrowLeft: -1, ArrowUp: -1, k: -1, ArrowRight: 1, ArrowDown: 1, j: 1 }[keyOf(event)];
    if (by) { event.preventDefault(); detail.step(by); }
    const original = document.getElementById("original");
    if (keyOf(event) === "o" && original) original.click();
  });
  return detail;
})();
